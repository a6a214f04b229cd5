"""The words of the command line: help for everything, and quick to come."""

import subprocess
import sys
from typing import Literal, get_args

import pytest

from scen import __version__, config, errors
from scen.cli import options
from scen.cli.main import COMMANDS, build_app, main
from scen.errors import ScenError
from scen.pipeline import job_spec

HEAVY = ["torch", "transformers", "mlflow", "pyarrow", "deltalake", "pydantic", "ray"]
NAMES = sorted((COMMANDS - {"base"}) | {"base fetch", "base info"})


def test_these_are_the_commands() -> None:
    assert set(NAMES) == {
        "base fetch", "base info", "edit", "ask", "eval", "calibrate", "collisions", "revoke",
        "expire", "rollback", "diff", "log", "show", "verify", "gc", "candidates", "promote",
        "reject", "register", "rebase", "export", "drain", "submit", "jobs", "stop", "serve",
        "demo", "report", "benchmark", "publish", "unpublish",
    }  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*name.split(), "--help"]) == 0
    usage, description, *rest = (line for line in capsys.readouterr().out.splitlines() if line)
    assert usage.startswith(f"Usage: scen {name} ")
    assert description[0].islower() or description[0].isdigit()
    text = "\n".join(rest)
    assert "--" in text
    assert "Raises" not in text


def test_each_command_has_a_line_in_the_overview_and_each_exit_code_is_there(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for name in COMMANDS:
        assert f"\n│ {name} " in text
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, ScenError):
            assert f"{kind.exit_code} " in text.split("exit codes:")[1]


def test_no_help_has_the_default_of_an_option_that_is_not_given(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in NAMES:
        main([*name.split(), "--help"])
        text = capsys.readouterr().out
        assert "[default: None]" not in text
        assert "[default: False]" not in text


def test_choices_are_those_of_the_settings() -> None:
    assert set(get_args(options.Method)) == set(get_args(config.Method))
    assert set(get_args(options.OnConflict)) == set(get_args(config.OnConflict))
    assert get_args(options.DataFormat) == get_args(job_spec.DataFormat)
    fields = config.BaseConfig.model_fields
    assert get_args(options.Template) == get_args(fields["template"].annotation)
    assert get_args(options.DType) == get_args(fields["dtype"].annotation)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_commands_and_options(shell: Literal["bash", "zsh", "fish"]) -> None:
    script = build_app().generate_completion(prog_name="scen", shell=shell)
    assert all(word in script for word in ("rollback", "fetch", "on-conflict", "supersede"))


def test_help_loads_no_machinery() -> None:
    code = (
        "import sys\nfrom scen.cli.main import main\n"
        "assert main(['--help']) == main(['edit', '--help']) == 0\n"
        f"print('loaded:', [name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True
    )
    assert "Usage: scen" in done.stdout
    assert done.stdout.splitlines()[-1] == "loaded: []"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"scen {__version__}\n"


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["edti"], "edti"),
        (["edit", "x.jsonl"], "--store"),
        (["ask", "--store", "s"], "PROMPT"),
        (["ask", "Who?", "--store", "s", "--max-new-tokens", "0"], "--max-new-tokens: 0 is not"),
        (["eval", "--store", "s", "--limit", "-1"], "--limit: -1 is not"),
        (["edit", "x", "--store", "s", "--limit", "ten"], "--limit: 'ten'"),
        (["edit", "x", "--store", "s", "--wave-size", "0"], "--wave-size: 0 is not"),
        (["demo", "--edits", "0"], "--edits: 0 is not"),
        (["edit", "x", "--store", "s", "--method", "magic"], "scen-lr"),
        (["edit", "x", "--store", "s", "--dtype", "int4"], "bfloat16"),
        (["base", "get"], "Available commands: fetch, info"),
        (["edit", "x", "y", "--store", "s"], "scen edit: y: nothing more is expected here"),
        (["edit", "x", "--store", "s", "--dry"], "Did you mean --dry-run?"),
        (["benchmark", "x", "--size", "0", "--size", "3"], "--size: 0 is not"),
        (["log", "--store", "s", "--since", "[/x]"], "--since: '[/x]' is not a date"),
        (["revoke", "e1", "--store", "s"], "--why"),
        (["revoke", "--store", "s", "--why", "x"], "EDIT_ID"),
        (["rollback", "one", "--store", "s", "--why", "x"], "VERSION: 'one' is not a whole number"),
        (["log", "--store", "s", "--since", "monday"], "--since: 'monday' is not a date"),
        (["gc", "--store", "s", "--keep-days", "-1"], "--keep-days: -1 is not a number of days"),
    ],
)
def test_wrong_words_name_the_argument(
    argv: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    [line] = captured.err.splitlines()
    assert words in line
    assert line.startswith("scen")
    assert line.endswith("--help)")


def test_without_a_command_there_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "Usage: scen COMMAND" in capsys.readouterr().out
