"""`scen candidates`, `promote`, `reject` and `rebase` on a tiny base."""

from pathlib import Path

import pytest

from conftest import write_tiny_base
from scen.cli.main import main
from scen.fs import Storage
from scen.ledger.ledger import open_ledger
from unit.cli.test_commands import QUICK, ROWS, SMALL, base_flags, edited, store, told, write_rows

__all__ = ["base_flags", "edited", "store"]  # fixtures
MORE = [row | {"id": f"{row['id']}-more", "prompt": f"{row['prompt']} And why?"} for row in ROWS]


def held_wave(store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The name of a wave that asks for more than a step of training gives."""
    file = write_rows(tmp_path / "more.jsonl", MORE)
    bound = ("--set", "waves.min_reliability=1", "--set", "expert.steps=1")
    argv = ("edit", file, "--store", store, *QUICK, *bound)
    summary = told(capsys, *argv)
    assert (summary["committed"], summary["version"]) == (0, 1)
    assert main(argv) == 0
    (key,) = summary["held"]
    assert f"held       {key}: reliability 0" in capsys.readouterr().out
    return str(key)


@pytest.mark.slow
def test_promote(store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = held_wave(store, tmp_path, capsys)
    (row,) = told(capsys, "candidates", "--store", store)["candidates"]
    assert (row["wave"], row["edit_ids"]) == (key, [edit["id"] for edit in MORE])
    assert main(["candidates", "--store", store]) == 0
    assert "held since" in capsys.readouterr().out
    done = told(capsys, "promote", key, "--store", store, "--why", "fine", "--who", "ann")
    assert done == {"action": "promote", "wave": key, "version": 2}
    assert told(capsys, "candidates", "--store", store) == {"candidates": []}
    last = open_ledger(Storage(store)).log()[-1]
    assert (last.who, last.why, last.wave_key) == ("ann", "fine", key)
    assert Storage(store).read_json(f"waves/{key}/tracked.json")["run_id"]


def test_reject(store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = held_wave(store, tmp_path, capsys)
    done = told(capsys, "reject", key, "--store", store, "--why", "no")
    assert done == {"action": "reject", "wave": key}
    assert main(["candidates", "--store", store]) == 0
    assert capsys.readouterr().out == "no wave is held\n"
    assert main(["promote", key, "--store", store, "--why", "yes"]) == 2
    assert "was rejected" in capsys.readouterr().err
    assert main(["reject", "none", "--store", store, "--why", "yes"]) == 5
    assert "`scen candidates` lists those that are" in capsys.readouterr().err


def test_rebase(store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["revoke", "e1", "--store", store, "--why", "wrong"]) == 0
    capsys.readouterr()
    other = write_tiny_base(tmp_path / "other", seed=5)
    words = ("--to", str(other), "--template", "llama2-inst", "--dtype", "float32", *QUICK)
    argv = ("rebase", store, "--store", str(tmp_path / "new"), *words)
    for known in (0, 2):  # run again, nothing is done twice
        summary = told(capsys, *argv)
        assert (summary["committed"], summary["known"], summary["version"]) == (2 - known, known, 1)
    old, new = open_ledger(Storage(store)), open_ledger(Storage(str(tmp_path / "new")))
    assert new.snapshot().ids == ["e0", "e2"]
    assert [e.stream for e in new.snapshot().entries] == [e.stream for e in old.snapshot().entries]
    assert [e.edit for e in new.snapshot().entries] == [e.edit for e in old.snapshot().entries]
    assert new.manifest.base["fingerprint"] != old.manifest.base["fingerprint"]
    assert told(capsys, *argv[:-1], "--no-tracking", "--version", "1")["committed"] == 1


def test_what_rebase_refuses(
    store: str, base_flags: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--to", base_flags[1], *QUICK)
    assert main(["rebase", store, "--store", store, *words]) == 2
    assert "--store: the edits need a store of their own" in capsys.readouterr().err
    assert main(["rebase", store, "--version", "0", "--store", f"{store}-new", *words]) == 2
    assert "no edit to take is active at version 0" in capsys.readouterr().err
    assert main(["rebase", f"{store}-none", "--store", store, *words]) == 5


def test_a_version_that_measures_badly_is_rolled_back(
    store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["eval", "--store", store, *SMALL, "--else-rollback", "0"]
    assert main([*argv, "--set", "waves.min_reliability=0"]) == 0
    assert main([*argv, "--set", "waves.min_reliability=1"]) == 1
    told_why = capsys.readouterr().err
    assert "is below waves.min_reliability 1; rolled back to 0 as version 2" in told_why
    ledger = open_ledger(Storage(store))
    assert ledger.snapshot().ids == []
    assert "waves.min_reliability 1" in ledger.log()[-1].why
