"""From the command line to what is done: which word wins, and what a store remembers."""

import json
from pathlib import Path
from typing import Any

import pytest

from scen.cli.main import main

SMALL = ("--set", "evaluation.locality_limit=2", "--set", "evaluation.locality_tokens=2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    """A folder with a base and edits whose names have signs that terminals take for markup."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "[b] base").symlink_to(tiny_folder)
    rows = [
        {
            "id": f"e{i}",
            "prompt": f"Who [i] founded place {i}?",
            "target": f"name {i}",
            "rephrases": [{"text": f"By whom was place {i} founded?", "source": "[/x] :smile:"}],
        }
        for i in range(3)
    ]
    lines = "".join(f"{json.dumps(row)}\n" for row in rows)
    (folder / "[e] edits.jsonl").write_text(lines)
    return folder


@pytest.fixture(scope="module")
def store(folder: Path) -> Path:
    """A store of three edits in waves of two, made by names without a path."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        (folder / "c.yaml").write_text(
            "waves: {size: 1}\nexpert: {steps: 99, rank: 2}\nbase: {dtype: float32}\n"
        )
        words = ["edit", "[e] edits.jsonl", "--store", "store", "--base", "[b] base"]
        words += ["--template", "llama2-inst", "--config", "c.yaml", "--wave-size", "2"]
        words += ["--set", "expert.steps=4", "--no-tracking", *SMALL]
        assert main(words) == 0
    return folder / "store"


def told(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    """The one JSON object of a command, which is one line of strict JSON alone on stdout."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    capsys.readouterr()
    assert main([*argv, "--json"]) == 0
    [line] = capsys.readouterr().out.splitlines()
    found: dict[str, Any] = json.loads(line, parse_constant=refuse)
    return found


def test_flags_win_over_set_and_set_over_the_file(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = told(capsys, "log", "--store", str(store))
    assert [commit["num_edits"] for commit in log["commits"]] == [2, 1]
    plan = json.loads(next(store.glob("waves/*/planned.json")).read_text())
    assert plan["settings"]["expert"]["steps"] == 4
    assert plan["settings"]["method"]["rank"] == 2
    assert (log["base"]["dtype"], log["base"]["template"]) == ("float32", "llama2-inst")


def test_a_store_finds_its_base_from_any_folder(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert told(capsys, "log", "--store", str(store))["base"]["name"].endswith("/[b] base")
    found = told(capsys, "ask", "Who [i] founded place 1?", "--store", str(store))
    assert found["edit_id"] == "e1"


def test_a_file_names_what_eval_measures(
    store: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags, edits = ("--store", str(store)), str(folder / "[e] edits.jsonl")
    all_edits = told(capsys, "eval", *flags, "--edits", edits, *SMALL)
    assert (all_edits["n_edits"], all_edits["counts"]["locality"]) == (3, 2)
    first = told(capsys, "eval", *flags, "--edits", edits, "--limit", "1", *SMALL)
    assert first["n_edits"] == 1
    own = told(capsys, "eval", *flags, "--limit", "2", "--version", "1", *SMALL)
    assert (own["n_edits"], own["version"]) == (2, 1)
    none = told(capsys, "eval", *flags, "--version", "0", *SMALL)
    assert (none["n_edits"], none["reliability"], none["generality"]) == (0, None, {})
    assert main(["eval", *flags, "--version", "9"]) == 5
    assert "--version: 9 is not one of 0 to 2" in capsys.readouterr().err


def test_locality_prompts_of_a_file_are_all_measured(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "others.txt").write_text("Where is it?\n\nWhat is red?\nWho was he?\n")
    argv = ("eval", "--store", str(store), "--locality", str(tmp_path / "others.txt"))
    report = told(capsys, *argv, *SMALL)
    assert report["counts"]["locality"] == 3
    assert report["locality_unchanged"] == 1.0
    assert report["logits_identical"] == 1.0


def test_signs_of_markup_are_printed_as_they_are(
    store: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(["eval", "--store", str(store), *SMALL]) == 0
    shown = capsys.readouterr()
    assert "rephrases ([/x] :smile:)" in shown.out
    assert f"{store}/evaluations/" in shown.out
    assert f"loading base {folder}/[b] base\n" in shown.err
    assert main(["base", "fetch", "--base", str(folder / "[b] base")]) == 0
    assert str(folder / "[b] base") in capsys.readouterr().out
    assert main(["log", "--store", str(store)]) == 0
    assert f"base {folder}/[b] base, fingerprint" in capsys.readouterr().out


def test_nothing_is_cut_off_in_a_narrow_terminal(
    store: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = str(folder / "[b] base")
    facts = told(capsys, "base", "info", "--base", base, "--dtype", "float32")
    assert main(["base", "info", "--base", base, "--dtype", "float32"]) == 0
    shown = capsys.readouterr().out
    assert facts["fingerprint"] in "".join(shown.split())
    assert "…" not in shown
    assert main(["log", "--store", str(store)]) == 0
    assert "…" not in capsys.readouterr().out
    bundle = told(capsys, "show", "e2", "--store", str(store))["bundle"]
    assert main(["show", "e2", "--store", str(store)]) == 0
    assert bundle in "".join(capsys.readouterr().out.split())
