"""The commands on a tiny base: files, JSON, exit codes, and errors that name the fix."""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from scen.cli.main import main

SMALL = ("--set", "evaluation.locality_limit=4", "--set", "evaluation.locality_tokens=4")
QUICK = (*SMALL, "--set", "expert.steps=6", "--no-tracking")
ROWS: list[dict[str, Any]] = [
    {"id": f"e{i}", "prompt": f"Who founded place number {i}?", "target": f"name {i}",
     "rephrases": [{"text": f"By whom was place number {i} founded?", "source": "orig"}]}
    for i in range(3)
]  # fmt: skip


def write_rows(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="module")
def base_flags(tiny_folder: Path) -> tuple[str, ...]:
    return ("--base", str(tiny_folder), "--template", "llama2-inst", "--dtype", "float32")


@pytest.fixture(scope="module")
def edited(tmp_path_factory: pytest.TempPathFactory, base_flags: tuple[str, ...]) -> Path:
    """A folder with a store of three edits and the file they came from."""
    folder = tmp_path_factory.mktemp("edited")
    file = write_rows(folder / "edits.jsonl", ROWS)
    assert main(["edit", file, "--store", str(folder / "store"), *base_flags, *QUICK]) == 0
    return folder


@pytest.fixture
def store(edited: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """A copy of that store, for one test to do with as it likes."""
    shutil.copytree(edited, tmp_path, dirs_exist_ok=True)
    capsys.readouterr()
    return str(tmp_path / "store")


def told(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    """What a command prints with --json, alone on stdout."""
    assert main([*argv, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_eval_prints_one_object_with_every_figure(
    store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    report = told(capsys, "eval", "--store", store, *SMALL)
    assert report["n_edits"] == 3
    assert report["version"] == 1
    assert set(report["generality"]) == {"orig"}
    assert report["logits_identical"] == 1.0
    for name in ("reliability", "locality_unchanged"):
        assert 0 <= report[name] <= 1
    assert {"reliability_before", "reliability_after"} <= set(report["teacher_forced"])
    lines = Path(report["per_edit_path"]).read_text().splitlines()
    assert len(lines) == 3 + 3 + 4


def test_samples_make_writes_edits_that_edit_takes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine, out = tmp_path / "mine.jsonl", tmp_path / "new" / "made.parquet"
    both = ("--like", "counterfact")
    made = told(capsys, "samples", "make", "--edits", "40", *both, "--out", str(mine))
    assert (made["edits"], made["bytes"]) == (40, mine.stat().st_size)
    told(capsys, "samples", "make", "--edits", "7", "--like", str(mine), "--out", str(out))
    assert pq.read_table(out).num_rows == 7
    assert main(["samples", "make", "--edits", "7", "--out", "made.csv"]) == 2
    assert "--out: made.csv must end in" in capsys.readouterr().err


def test_ask_prints_answer_route_and_version(
    store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    prompt = str(ROWS[1]["prompt"])
    found = told(capsys, "ask", prompt, "--store", store, "--base-answer")
    assert (found["route"], found["edit_id"], found["version"]) == ("edit", "e1", 1)
    assert found["score"] == pytest.approx(1.0, abs=1e-3)
    assert found["answer"] != found["base_answer"]
    plain = told(capsys, "ask", prompt, "--store", store, "--version", "0")
    assert (plain["route"], plain["answer"]) == ("base", found["base_answer"])


def test_log_and_show(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    log = told(capsys, "log", "--store", store)
    assert [c["num_edits"] for c in log["commits"]] == [3]
    shown = told(capsys, "show", "e2", "--store", store)
    assert (shown["target"], shown["row"], shown["version"]) == ("name 2", 2, 1)


def test_what_is_revoked_is_answered_by_the_base_and_a_rollback_brings_it_back(
    store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ask = ("ask", ROWS[1]["prompt"], "--store", store, "--base-answer")
    before = told(capsys, *ask)
    told(capsys, "revoke", "e0", "e1", "e2", "--store", store, "--why", "wrong")
    gone = told(capsys, *ask)
    assert (before["route"], gone["route"], gone["version"]) == ("edit", "base", 2)
    assert gone["answer"] == gone["base_answer"] == before["base_answer"] != before["answer"]
    found = told(capsys, "diff", "1", "2", "--store", store, "--answers")
    change = {"prompt": ask[1], "before": before["answer"], "after": before["base_answer"]}
    assert change in found["answers"]
    told(capsys, "rollback", "1", "--store", store, "--why", "right")
    assert told(capsys, *ask)["answer"] == before["answer"]


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["show", "e22"], 5, "did you mean e2"),
        (["ask", "Who?", "--version", "7"], 5, "--version: 7 is not one of 0 to 1"),
        (["ask", "  "], 2, "PROMPT"),
        (["edit", "missing.jsonl", "--no-tracking"], 3, "missing.jsonl"),
        (["edit", "x.jsonl", "--set", "expert.stepz=3"], 2, "expert.stepz"),
        (["edit", "x.jsonl", "--stream", "No Good"], 2, "--stream"),
    ],
)
def test_an_error_is_one_line_with_its_own_exit_code(
    store: str, capsys: pytest.CaptureFixture[str], argv: list[str], code: int, words: str
) -> None:
    assert main([*argv, "--store", store]) == code
    captured = capsys.readouterr()
    assert words in captured.err
    assert "Traceback" not in captured.err


def test_a_store_refuses_another_base(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], tiny_folder: Path
) -> None:
    file = write_rows(tmp_path / "more.jsonl", ROWS)
    flags = ("--base", str(tiny_folder), "--template", "raw", "--dtype", "float32")
    assert main(["edit", file, "--store", store, *flags, *QUICK]) == 4
    assert "belongs to" in capsys.readouterr().err


def test_a_store_refuses_another_method(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(tmp_path / "edits.jsonl")
    assert main(["edit", file, "--store", store, "--method", "scen", *QUICK]) == 2
    assert "method is 'scen-lr', not 'scen'" in capsys.readouterr().err


def test_a_bad_row_goes_to_quarantine_and_the_rest_proceeds(
    tmp_path: Path, base_flags: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [ROWS[0], {"id": "bad", "prompt": "Who?", "target": ""}, ROWS[1]]
    file, uri = write_rows(tmp_path / "mixed.jsonl", rows), str(tmp_path / "store")
    done = told(capsys, "edit", file, "--store", uri, *base_flags, *QUICK)
    assert (done["committed"], done["rejected"]) == (2, 1)
    [rejected] = pq.read_table(done["quarantine"]).to_pylist()
    assert (rejected["row"], rejected["id"], rejected["field"]) == (2, "bad", "target")
    assert rejected["reason"]


def test_strict_refuses_the_file_and_commits_nothing(
    tmp_path: Path, base_flags: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_rows(tmp_path / "mixed.jsonl", [ROWS[0], {"prompt": "Who?", "target": ""}])
    uri = str(tmp_path / "store")
    assert main(["edit", file, "--store", uri, "--strict", *base_flags, *QUICK]) == 3
    assert "row 2" in capsys.readouterr().err
    assert told(capsys, "log", "--store", uri)["version"] == 0


def test_the_same_file_again_changes_nothing(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = told(capsys, "edit", str(tmp_path / "edits.jsonl"), "--store", store, *QUICK)
    assert (again["version"], again["committed"], again["known"]) == (1, 0, 3)


def test_a_contradiction_of_a_committed_edit_is_quarantined_with_its_row(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [ROWS[0] | {"id": "other", "target": "nobody"}, {"prompt": "Who is new?", "target": "X"}]
    file = write_rows(tmp_path / "second.jsonl", rows)
    done = told(capsys, "edit", file, "--store", store, *QUICK)
    assert (done["version"], done["committed"], done["rejected"]) == (2, 1, 1)
    [rejected] = pq.read_table(done["quarantine"]).to_pylist()
    assert (rejected["row"], rejected["id"], rejected["field"]) == (1, "other", "prompt")
    assert "e0" in rejected["reason"]


@pytest.mark.parametrize("policy", ["supersede", "refuse"])
def test_what_becomes_of_a_contradiction_may_be_chosen(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], policy: str
) -> None:
    rows = [ROWS[0] | {"id": f"new{i}", "target": f"other {i}"} for i in range(2)]
    file = write_rows(tmp_path / "second.jsonl", rows)
    argv = ["edit", file, "--store", store, *QUICK, "--on-conflict", policy, "--why", "moved"]
    if policy == "refuse":
        assert main(argv) == 3
        assert "--on-conflict refuse takes none of the wave" in capsys.readouterr().err
        assert told(capsys, "log", "--store", store)["version"] == 1
        return
    done = told(capsys, *argv)
    assert (done["version"], done["committed"], done["superseded"], done["rejected"]) == (
        2,
        1,
        1,
        1,
    )
    [rejected] = pq.read_table(done["quarantine"]).to_pylist()
    assert (rejected["row"], rejected["id"]) == (1, "new0")
    last = told(capsys, "log", "--store", store)["commits"][-1]
    assert (last["why"], last["counts"]) == ("moved", {"committed": 1, "superseded": 1})


def test_paper_mode_from_file_to_answer(
    tmp_path: Path, base_flags: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    file, uri = write_rows(tmp_path / "edits.jsonl", ROWS), str(tmp_path / "store")
    tuned = ("--set", "router.theta=0.0", "--set", "expert.lr=0.01")
    main(["edit", file, "--store", uri, "--method", "scen", *base_flags, *QUICK, *tuned])
    capsys.readouterr()
    report = told(capsys, "eval", "--store", uri, *SMALL)
    assert report["routing"]["false_activation_locality"] == 1.0  # theta 0 lets everything in
    assert report["teacher_forced"]["reliability_after"] > 0


def test_people_see_a_table(
    tmp_path: Path, base_flags: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    file, uri = write_rows(tmp_path / "edits.jsonl", ROWS), str(tmp_path / "store")
    assert main(["edit", file, "--store", uri, *base_flags, *QUICK]) == 0
    captured = capsys.readouterr()
    assert "edits answered exactly" in captured.out
    assert "loading base" in captured.err
