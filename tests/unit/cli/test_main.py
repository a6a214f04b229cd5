"""The words of the command line, its help, its errors on one line, and its exit codes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Literal, get_args

import pytest

from scen import __version__, config, errors
from scen.cli import options
from scen.cli.main import COMMANDS, build_app, main
from scen.errors import ScenError
from scen.method import MethodName
from scen.pipeline import job_spec

HEAVY = ["torch", "transformers", "mlflow", "pyarrow", "deltalake", "pydantic", "ray"]
GROUPED = {"base fetch", "base info", "base list", "base check", "samples make"}
NAMES = sorted((COMMANDS - {"base", "samples"}) | GROUPED)


def test_these_are_the_commands() -> None:
    assert set(NAMES) == {
        "base fetch", "base info", "base list", "base check", "samples make", "edit", "ask",
        "eval", "calibrate",
        "collisions", "revoke", "expire", "rollback", "diff", "log", "show", "verify", "gc",
        "candidates", "promote", "reject", "register", "rebase", "export", "drain", "submit",
        "jobs", "stop", "serve", "demo", "report", "benchmark", "publish", "unpublish", "sign",
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
    assert set(get_args(options.Method)) == set(get_args(MethodName))
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
        (["edit", "x", "y", "--store", "s"], "scen edit: y: unexpected argument"),
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


@pytest.fixture
def edits(tmp_path: Path) -> str:
    """A file with one edit."""
    path = tmp_path / "edits.jsonl"
    path.write_text(json.dumps({"prompt": "Who founded Oslo?", "target": "Harald"}))
    return str(path)


def fail(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str]:
    """The exit code and the one line."""
    capsys.readouterr()
    code = main(argv)
    captured = capsys.readouterr()
    assert captured.out == ""
    told = [line for line in captured.err.splitlines() if line.startswith("scen ")]
    assert len(told) == 1
    return code, told[0]


def test_a_wrong_setting(capsys: pytest.CaptureFixture[str], edits: str, tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    code, line = fail(capsys, "edit", edits, "--store", store, "--set", "expert.stepz=8")
    assert (code, line.split(":")[0]) == (2, "scen edit")
    assert "expert.stepz" in line
    config = tmp_path / "none.yaml"
    code, line = fail(capsys, "edit", edits, "--store", store, "--config", str(config))
    assert (code, f"cannot read {config}" in line) == (2, True)


@pytest.mark.parametrize("content", [None, b""])
def test_a_file_that_cannot_be_used_and_no_store_is_made_for_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_folder: Path, content: bytes | None
) -> None:
    file, store = tmp_path / "file.jsonl", tmp_path / "store"
    if content is not None:
        file.write_bytes(content)
    flags = ("--base", str(tiny_folder), "--no-tracking")
    code, line = fail(capsys, "edit", str(file), "--store", str(store), *flags)
    assert code == 3
    assert str(file) in line
    assert not (store / "store.json").exists()


def test_a_locality_file_that_is_missing(
    capsys: pytest.CaptureFixture[str], edits: str, tmp_path: Path
) -> None:
    none, store = str(tmp_path / "none.txt"), tmp_path / "store"
    code, line = fail(capsys, "edit", edits, "--store", str(store), "--locality", none)
    assert (code, none in line) == (3, True)
    assert not (store / "store.json").exists()


def test_a_base_that_is_not_supported(
    capsys: pytest.CaptureFixture[str], edits: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    store = str(tmp_path / "store")
    for argv in (["edit", edits, "--store", store], ["base", "info"], ["base", "fetch"]):
        code, line = fail(capsys, *argv, "--base", str(tmp_path))
        assert code == 4
        assert "model_type 'gpt2' cannot be edited: its layers are not at model.layers" in line


@pytest.mark.parametrize("argv", [["log"], ["show", "e1"], ["ask", "Who?"], ["eval"]])
def test_a_store_that_is_not_there(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, argv: list[str]
) -> None:
    code, line = fail(capsys, *argv, "--store", str(tmp_path / "store"))
    assert code == 5
    assert "`scen edit FILE --store ...` makes one" in line


def test_a_damaged_store(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "store.json").write_text("{")
    code, line = fail(capsys, "log", "--store", str(tmp_path))
    assert code == 7
    assert f"{tmp_path}/store.json" in line


@pytest.mark.parametrize("words", [["--version"], ["--help"], ["base", "info", "--json"]])
def test_a_reader_that_ends_early_is_no_error(words: list[str], tiny_folder: Path) -> None:
    """`scen log | head`: quiet, with the exit code of a closed pipe."""
    base = ["--base", str(tiny_folder)] if "info" in words else []
    command = [sys.executable, "-P", "-m", "scen.cli.main", *words, *base]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert done.returncode == 141
    assert [line for line in done.stderr.splitlines() if not line.startswith("· ")] == []


def test_the_program_ends_with_that_code(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "scen.cli.main", "log", "--store", str(tmp_path / "s")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (5, "")
    assert done.stderr.startswith("scen log: store: there is no ledger")
