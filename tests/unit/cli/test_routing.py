"""`scen collisions` and what `scen calibrate` refuses, on a tiny base."""

import json
from pathlib import Path
from typing import Any

import pytest

from scen.cli.main import main

QUICK = ("--no-tracking", "--set", "evaluation.locality_limit=1", "--set", "expert.steps=1")


@pytest.fixture(scope="module")
def base_flags(tiny_folder: Path) -> tuple[str, ...]:
    return ("--base", str(tiny_folder), "--template", "llama2-inst", "--dtype", "float32")


def write_edits(path: Path, prompts: list[str]) -> str:
    rows = [{"id": f"e{i}", "prompt": text, "target": f"x{i}"} for i, text in enumerate(prompts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def collisions(capsys: pytest.CaptureFixture[str], store: str, *more: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["collisions", "--store", store, "--json", *more]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_edits_that_are_nearly_one_collide_and_others_do_not(
    tmp_path: Path, base_flags: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = ["Who founded the old town?", "Who founded the olde town?", "9999 zzz 31 - 4 qqq %"]
    store = str(tmp_path / "store")
    file = write_edits(tmp_path / "edits.jsonl", prompts)
    assert main(["edit", file, "--store", store, *base_flags, *QUICK]) == 0
    assert collisions(capsys, store)["pairs"] == []
    found = collisions(capsys, store, "--margin", "0.3")
    assert [(p["first"]["edit_id"], p["second"]["edit_id"]) for p in found["pairs"]] == [
        ("e0", "e1")
    ]
    (pair,) = found["pairs"]
    assert not pair["above"]
    assert 0.3 < pair["score"] < found["threshold"] == 0.6
    assert pair["second"]["prompt"] == prompts[1]
    assert set(pair["similarities"]) == {"mean@0.0", "last@4.0"}
    assert len(collisions(capsys, store, "--margin", "9")["pairs"]) == 3
    assert len(collisions(capsys, store, "--margin", "9", "--limit", "2")["pairs"]) == 2
    assert collisions(capsys, store, "--version", "0")["pairs"] == []
    assert main(["collisions", "--store", store, "--margin", "0.3"]) == 0
    assert "e1" in capsys.readouterr().out
    assert main(["collisions", "--store", store, "--margin", "-1"]) == 2
    assert "margin: -1" in capsys.readouterr().err


def test_neurons_of_the_paper_have_no_collisions(
    tmp_path: Path, base_flags: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    store = str(tmp_path / "store")
    file = write_edits(tmp_path / "edits.jsonl", ["Who founded the old town?"])
    assert main(["edit", file, "--store", store, "--method", "scen", *base_flags, *QUICK]) == 0
    assert main(["collisions", "--store", store]) == 2
    assert "method scen-lr" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--edits", "no.jsonl", "--out", "p.json"], 3, "no.jsonl"),
        (["--edits", "EDITS", "--out", "p.yaml"], 2, "--out: p.yaml must end with .json"),
        (["--edits", "EDITS", "--out", "p.json"], 3, "--edits: 2 usable edits"),
        (["--edits", "EDITS"], 2, "--out: give --out FILE"),
        (["--store", "s", "--out", "p.json"], 2, "--out: give --out FILE"),
        (["--out", "p.json"], 2, "--edits: give at least one file of edits, or --quick"),
        (["--store", "no-store"], 5, "there is no ledger at"),
    ],
)
def test_calibrate_refuses_what_cannot_work(
    arguments: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    base_flags: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = write_edits(tmp_path / "edits.jsonl", ["Who founded Oslo?", "Who founded Ghent?"])
    told = [file if word == "EDITS" else word for word in arguments]
    assert main(["calibrate", *told, "--no-tracking", *base_flags]) == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "p.json").exists()


def test_a_bound_must_be_a_share(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", "--edits", "a", "--out", "b", "--max-false-activation", "2"]) == 2
    assert "--max-false-activation: '2' is not between 0 and 1" in capsys.readouterr().err
