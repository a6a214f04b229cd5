"""Erasure works as platform/README.md says: the new store holds nothing of an edit left behind."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from scen.cli.main import main
from scen.fs import Storage
from scen.ledger.ledger import open_ledger
from unit.cli.test_commands import QUICK, ROWS, base_flags, edited, store, told

__all__ = ["base_flags", "edited", "store"]  # fixtures


def holders(folder: Path, words: str) -> list[Path]:
    """The files that have these words in them, or in whose name they are."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [p for p in files if words.encode() in p.read_bytes() or words in str(p)]


def test_a_rebase_without_an_edit_leaves_nothing_of_it(
    store: str, tmp_path: Path, base_flags: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    new, to = tmp_path / "new", ("--to", *base_flags[1:])
    argv = ("rebase", store, *to, "--store", str(new), "--without", "e1", *QUICK)
    assert told(capsys, *argv)["committed"] == 2
    secret = [ROWS[1]["prompt"], ROWS[1]["target"], ROWS[1]["rephrases"][0]["text"]]
    for words in secret:
        assert holders(Path(store), words)
        assert holders(new, words) == []
    assert holders(new, ROWS[0]["prompt"])
    old, now = (open_ledger(Storage(uri)) for uri in (store, str(new)))
    assert now.snapshot().ids == ["e0", "e2"]
    assert now.manifest.base == old.manifest.base
    assert now.manifest.artifacts == old.manifest.artifacts  # the same router
    ask = ("ask", ROWS[2]["prompt"], "--store")
    said = [told(capsys, *ask, uri) for uri in (store, str(new))]
    assert said[0]["route"] == said[1]["route"] == "edit"
    assert told(capsys, "verify", "--store", str(new))["sound"]
    audit = tmp_path / "audit.parquet"
    told(capsys, "log", "--store", str(new), "--parquet", str(audit))
    assert set(pq.read_table(audit)["edit_id"].to_pylist()) == {"e0", "e2"}


def test_an_edit_that_never_was_is_not_left_behind(
    store: str, tmp_path: Path, base_flags: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["rebase", store, "--to", *base_flags[1:], "--store", str(tmp_path / "new")]
    assert main([*argv, "--without", "e11"]) == 5
    assert "'e11' is not in the ledger; did you mean e1" in capsys.readouterr().err
    everything = [word for i in range(3) for word in ("--without", f"e{i}")]
    assert main([*argv, *everything]) == 2
    assert "no edit to take is active at version 1" in capsys.readouterr().err
    assert not list((tmp_path / "new").rglob("store.json"))
