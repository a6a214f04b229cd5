"""The words of the command line: help for everything, and quick to come."""

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from scen import __version__, errors
from scen.cli.main import main
from scen.cli.parser import build_parser
from scen.errors import ScenError

HEAVY = ["torch", "transformers", "mlflow", "pyarrow", "deltalake", "pydantic"]


def walk(
    parser: argparse.ArgumentParser, name: str
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Each command with its parser, `base fetch` and the like too."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, inner in action.choices.items():
                yield from walk(inner, f"{name} {word}".strip())
            return
    yield name, parser


COMMANDS = dict(walk(build_parser(), ""))


def test_these_are_the_commands() -> None:
    assert set(COMMANDS) == {
        "base fetch", "base info", "base list", "base check",
        "edit", "ask", "eval", "calibrate", "collisions", "revoke",
        "expire", "rollback", "diff", "log", "show", "verify", "gc", "candidates", "promote",
        "reject", "register", "rebase", "export", "drain", "submit", "jobs", "stop", "serve",
        "demo", "report", "benchmark", "publish", "unpublish",
    }  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*name.split(), "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert f"usage: scen {name}" in text
    description = COMMANDS[name].description
    assert description
    assert description.split()[0] in text


def test_each_command_has_a_line_in_the_overview_and_each_exit_code_is_told() -> None:
    text = build_parser().format_help()
    for name in COMMANDS:
        assert re.search(rf"^    {name.split()[0]}\s", text, re.MULTILINE)
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, ScenError):
            assert f"{kind.exit_code} " in text.split("exit codes:")[1]


def test_help_loads_no_machinery() -> None:
    code = (
        "import sys\nfrom scen.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as ended:\n    assert ended.code == 0\n"
        f"print('loaded:', [name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True
    )
    assert "usage: scen" in done.stdout
    assert done.stdout.splitlines()[-1] == "loaded: []"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"scen {__version__}\n"


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], "COMMAND"),
        (["edti"], "edti"),
        (["edit", "x.jsonl"], "--store"),
        (["ask", "--store", "s"], "PROMPT"),
        (["ask", "Who?", "--store", "s", "--max-new-tokens", "0"], "--max-new-tokens: '0'"),
        (["eval", "--store", "s", "--limit", "-1"], "--limit: '-1'"),
        (["edit", "x", "--store", "s", "--limit", "ten"], "--limit: 'ten'"),
        (["edit", "x", "--store", "s", "--wave-size", "0"], "--wave-size: '0'"),
        (["demo", "--edits", "0"], "--edits: '0'"),
        (["edit", "x", "--store", "s", "--method", "magic"], "scen-lr"),
        (["edit", "x", "--store", "s", "--dtype", "int4"], "bfloat16"),
        (["base"], "ACTION"),
        (["revoke", "e1", "--store", "s"], "--why"),
        (["revoke", "--store", "s", "--why", "x"], "EDIT_ID"),
        (["rollback", "one", "--store", "s", "--why", "x"], "VERSION: invalid int value: 'one'"),
        (["log", "--store", "s", "--since", "monday"], "--since: 'monday' is not a date"),
        (["gc", "--store", "s", "--keep-days", "-1"], "--keep-days: '-1' is not a number of days"),
    ],
)
def test_wrong_words_name_the_argument(
    argv: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert words in captured.err
