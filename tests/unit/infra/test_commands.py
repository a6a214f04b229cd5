"""Every command line that a file of infra/ holds is one that the command understands."""

import argparse
import importlib
import re
import warnings
from typing import Any

import click
import pytest

from scen.cli.parser import build_parser
from scen.cluster.sharding import read_deepspeed
from scen.config import load_config
from unit.infra.manifests import IMAGE_CONFIGS, ROOT, commands, in_repository

FOUND = commands()
COMMANDS = {command.where: command for command in FOUND}
SCEN = {name: x for name, x in COMMANDS.items() if x.words[0] in ("scen", "python")}
MLFLOW = {name: x for name, x in COMMANDS.items() if x.words[0] == "mlflow"}


def parse(words: tuple[str, ...]) -> argparse.Namespace:
    """The arguments of a command or a job, by the parser that it uses itself."""
    if words[0] == "scen":
        return build_parser().parse_args(words[1:])
    assert words[:2] == ("python", "-m")
    job = importlib.import_module(words[2])
    assert words[2].startswith("scen_jobs.")
    assert callable(job.main)
    taken = re.search(r"Takes the arguments of `scen (\w+)`", job.__doc__ or "")
    assert taken is not None
    return build_parser().parse_args([taken.group(1), *words[3:]])


def test_all_commands_are_looked_at() -> None:
    assert len(COMMANDS) == len(FOUND)
    assert {x.words[0] for x in COMMANDS.values()} == {"scen", "python", "mlflow"}
    commanded = {x.words[1] for x in SCEN.values() if x.words[0] == "scen"}
    assert commanded == {"serve", "drain", "expire", "gc", "eval"}


@pytest.mark.parametrize("where", SCEN)
def test_the_platform_understands_a_command(where: str) -> None:
    args = parse(SCEN[where].words)
    config = getattr(args, "config", None)
    settings = load_config(config and in_repository(config), getattr(args, "overrides", []))
    sharding = settings.cluster.deepspeed
    if isinstance(sharding, str) and sharding.startswith(IMAGE_CONFIGS):
        sharding = in_repository(sharding)
    read_deepspeed(sharding)


@pytest.mark.parametrize("wrong", ["--on-conflicts=refuse", "--wave-size=none", "--stores=x"])
def test_a_wrong_word_is_found(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    job = next(x for x in SCEN.values() if x.words[0] == "python")
    with pytest.raises(SystemExit):
        parse((*job.words, wrong))
    assert wrong.partition("=")[0] in capsys.readouterr().err


@pytest.fixture(scope="module")
def mlflow_cli() -> Any:
    """The commands of MLflow, which warns of itself when it is imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow.cli import cli
    return cli


@pytest.mark.parametrize("where", MLFLOW)
def test_mlflow_understands_a_command(where: str, mlflow_cli: Any) -> None:
    _, command, *words = MLFLOW[where].words
    given = mlflow_cli.commands[command].make_context(command, words).params
    assert given["allowed_hosts"]
    assert given["artifacts_destination"]


def test_a_wrong_word_for_mlflow_is_found(mlflow_cli: Any) -> None:
    with pytest.raises(click.UsageError, match="--allow-hosts"):
        mlflow_cli.commands["server"].make_context("server", ["--allow-hosts=x"])


def test_all_write_to_the_stores_that_servers_read() -> None:
    stores = {name: parse(x.words).store for name, x in SCEN.items()}
    inside = {store for store in stores.values() if not store.startswith("s3://")}
    assert inside == {"/store"}  # of docker
    assert {store for store in stores.values() if store not in inside} == {
        "s3://bucket/store",
        "s3://bucket/llama-store",
    }


def test_paths_of_settings_are_in_the_image_and_here() -> None:
    paths = [
        path
        for file in (ROOT / "infra").rglob("*.yaml")
        for path in re.findall(rf"{IMAGE_CONFIGS}/[\w./-]+", file.read_text())
    ]
    assert len(paths) >= 2
    assert [path for path in paths if not (ROOT / in_repository(path)).is_file()] == []
