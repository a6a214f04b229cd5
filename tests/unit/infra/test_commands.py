"""Every command line that a file of infra/ holds is one that the command understands."""

import re
import warnings
from dataclasses import dataclass
from typing import Any

import click
import pytest
from cyclopts import CycloptsError

from scen.cli.main import build_app
from scen.cli.options import SettingOptions
from scen.cluster.sharding import read_deepspeed
from scen.config import Config, load_config
from scen.errors import ConfigError
from scen.pipeline.job_spec import DrainSpec, EvalSpec, StreamSpec, parse_spec
from unit.infra.manifests import IMAGE_CONFIGS, ROOT, commands, in_repository

FOUND = commands()
COMMANDS = {command.where: command for command in FOUND}
SCEN = {name: x for name, x in COMMANDS.items() if x.words[0] in ("scen", "python")}
MLFLOW = {name: x for name, x in COMMANDS.items() if x.words[0] == "mlflow"}


@dataclass(frozen=True)
class Meant:
    """The store and the settings of a command or a job."""

    store: str
    settings: Config


def parse(words: tuple[str, ...]) -> Meant:
    """What words mean, as the command or the job itself reads them."""
    if words[0] == "python":
        assert words[:4] == ("python", "-m", "scen_jobs", "--spec")
        assert len(words) == 5
        spec = parse_spec(words[4])
        assert isinstance(spec, StreamSpec | DrainSpec | EvalSpec)
        file = spec.settings_file and str(in_repository(spec.settings_file))
        return Meant(spec.store, spec.model_copy(update={"settings_file": file}).config())
    _, bound, _ = build_app().parse_args(words[1:], exit_on_error=False, print_error=False)
    given = bound.arguments
    settings = given.get("settings") or SettingOptions()
    file = settings.config and str(in_repository(settings.config))
    store = given["waves"].store if "waves" in given else given["store"]
    return Meant(store, load_config(file, settings.overrides))


def test_all_commands_are_looked_at() -> None:
    assert len(COMMANDS) == len(FOUND)
    assert {x.words[0] for x in COMMANDS.values()} == {"scen", "python", "mlflow"}
    commanded = {x.words[1] for x in SCEN.values() if x.words[0] == "scen"}
    assert commanded == {"serve", "drain", "expire", "gc", "eval"}


@pytest.mark.parametrize("where", SCEN)
def test_the_platform_understands_a_command(where: str) -> None:
    sharding = parse(SCEN[where].words).settings.cluster.deepspeed
    if isinstance(sharding, str) and sharding.startswith(IMAGE_CONFIGS):
        sharding = str(in_repository(sharding))
    read_deepspeed(sharding)


@pytest.mark.parametrize("wrong", ["--on-conflicts=refuse", "--wave-size=ten", "--stores=x"])
def test_a_wrong_word_is_found(wrong: str) -> None:
    drain = next(x for x in SCEN.values() if x.words[1] == "drain")
    with pytest.raises(CycloptsError, match=wrong.partition("=")[0]):
        parse((*drain.words, wrong))


def test_a_wrong_field_of_a_job_is_found() -> None:
    job = next(x for x in SCEN.values() if x.words[0] == "python")
    with pytest.raises(ConfigError, match="spec: wave_size"):
        parse((*job.words[:4], job.words[4].replace('"kind"', '"wave_size": 3, "kind"')))


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
