"""One error, one line on stderr, nothing on stdout, and the exit code of its kind."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from scen.cli.main import main


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
        assert "'gpt2' is not supported. Supported: Llama-2" in line


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


def test_the_program_ends_with_that_code(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "scen.cli.main", "log", "--store", str(tmp_path / "s")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (5, "")
    assert done.stderr.startswith("scen log: store: there is no ledger")
