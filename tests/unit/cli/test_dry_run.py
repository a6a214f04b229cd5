"""`scen edit --dry-run` on a tiny base."""

from pathlib import Path

import pytest

from scen.cli.main import main
from unit.cli.test_commands import ROWS, base_flags, edited, store, told, write_rows

__all__ = ["base_flags", "edited", "store"]  # fixtures


def test_a_dry_run_tells_all_and_writes_nothing(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        ROWS[0],
        ROWS[1] | {"id": "other", "target": "nobody"},
        {"id": "new", "prompt": "Who is new?", "target": "X"},
        {"id": "newer", "prompt": "Who is new?", "target": "Y"},
        {"prompt": "Who?", "target": ""},
    ]
    file = write_rows(tmp_path / "second.jsonl", rows)
    files = {path: path.read_bytes() for path in Path(store).rglob("*") if path.is_file()}
    argv = ("edit", file, "--store", store, "--wave-size", "3", "--on-conflict", "supersede")
    found = told(capsys, *argv, "--dry-run")
    assert (found["waves"], found["known"], found["version"]) == (2, 1, 1)
    assert [(row["id"], row["replaces"]) for row in found["admitted"]] == [
        ("other", ["e1"]),
        ("new", []),
        ("newer", ["new"]),
    ]
    assert [row["field"] for row in found["rejected"]] == ["target"]
    assert found["train_seconds"] > 0
    assert main([*argv[:-1], "refuse", "--dry-run"]) == 0
    assert "rejected   other: prompt: edit e1 is committed" in capsys.readouterr().out
    assert files == {path: path.read_bytes() for path in Path(store).rglob("*") if path.is_file()}
    none = told(capsys, "edit", file, "--store", str(tmp_path / "none"), "--dry-run")
    assert (len(none["admitted"]), none["train_seconds"], none["version"]) == (3, None, 0)
