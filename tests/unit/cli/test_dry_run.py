"""`scen edit --dry-run` on a tiny base."""

from pathlib import Path
from typing import Any

import pytest

from scen.cli.main import main
from unit.cli.test_commands import QUICK, ROWS, base_flags, edited, store, told, write_rows

__all__ = ["base_flags", "edited", "store"]  # fixtures
NEAR: list[dict[str, Any]] = [
    {"id": word, "prompt": f"Who founded the {word} town?", "target": "Ann"}
    for word in ("old", "olde")
]


def contents(folder: str) -> dict[Path, bytes]:
    """All files of a store."""
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


@pytest.fixture
def loose(tmp_path: Path, base_flags: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> str:
    """A store whose router takes similar prompts for the same, with one edit."""
    uri, file = str(tmp_path / "loose"), write_rows(tmp_path / "first.jsonl", NEAR[:1])
    cut = ("--set", "router.threshold=0.3")
    assert main(["edit", file, "--store", uri, *base_flags, *QUICK, *cut]) == 0
    capsys.readouterr()
    return uri


def test_a_dry_run_reports_everything_and_writes_nothing(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        ROWS[0],
        ROWS[1] | {"id": "other", "target": "nobody"},
        {"id": "new", "prompt": "Who is new?", "target": "X"},
        {"id": "newer", "prompt": "Who is new?", "target": "Y"},
        {"prompt": "Who?", "target": ""},
        {"id": "long", "prompt": "Who is long?", "target": " ".join(["word"] * 300)},
    ]
    file, files = write_rows(tmp_path / "second.jsonl", rows), contents(store)
    argv = ("edit", file, "--store", store, "--wave-size", "3", "--on-conflict", "supersede")
    found = told(capsys, *argv, "--dry-run")
    assert (found["waves"], found["known"], found["version"]) == (2, 1, 1)
    assert [(row["id"], row["replaces"]) for row in found["admitted"]] == [
        ("other", ["e1"]),
        ("new", []),
        ("newer", ["new"]),
    ]
    assert [row["field"] for row in found["rejected"]] == ["target", "target"]
    assert "tokens long" in found["rejected"][1]["reason"]
    assert min(found["train_seconds"], found["eval_seconds"]) > 0
    assert not found["is_rough"]
    assert main([*argv[:-1], "refuse", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "rejected   other: prompt: edit e1 is committed" in shown
    assert "as the store's newest waves took" in shown
    blind = told(capsys, *argv, "--dry-run", "--no-base")
    assert (blind["collisions"], [row["id"] for row in blind["admitted"]][-1]) == (None, "long")
    assert contents(store) == files


def test_near_duplicates_are_reported_before_training(
    loose: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [*NEAR, {"id": "other", "prompt": "9999 zzz 31 - 4 qqq %", "target": "Bob"}]
    file, files = write_rows(tmp_path / "second.jsonl", rows), contents(loose)
    argv = ("edit", file, "--store", loose, "--dry-run", "--wave-size", "2")
    found = told(capsys, *argv)
    assert [(pair["id"], pair["other"]) for pair in found["collisions"]] == [("olde", "old")]
    assert found["collisions"][0]["score"] > 0.3
    assert [row["id"] for row in found["admitted"]] == ["olde", "other"]
    assert main([*argv]) == 0
    shown = capsys.readouterr().out
    assert "collision  the router also matches the prompt of olde to old (score 0." in shown
    strict = told(capsys, *argv, "--set", "waves.on_collision=quarantine")
    assert [row["id"] for row in strict["admitted"]] == ["other"]
    assert "to edit old (score" in strict["rejected"][0]["reason"]
    assert contents(loose) == files


def test_near_duplicates_within_a_file_are_reported_across_waves(
    loose: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [row | {"id": f"b-{row['id']}", "prompt": row["prompt"][::-1]} for row in NEAR]
    file = write_rows(tmp_path / "second.jsonl", rows)
    for size in ("1", "2"):
        found = told(capsys, "edit", file, "--store", loose, "--dry-run", "--wave-size", size)
        assert ("b-olde", "b-old") in [(p["id"], p["other"]) for p in found["collisions"]]


def test_current_answers_stand_beside_the_new_ones(
    store: str, tmp_path: Path, base_flags: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a store they are those of its newest version, else the base's."""
    rows = [ROWS[i] | {"id": f"n{i}", "target": "nobody"} for i in range(2)]
    file = write_rows(tmp_path / "second.jsonl", rows)
    more = ("--dry-run", "--on-conflict", "supersede", "--answers")
    said = told(capsys, "ask", ROWS[0]["prompt"], "--store", store, "--base-answer")
    found = told(capsys, "edit", file, "--store", store, *more, "1")
    assert [row.get("answer") for row in found["admitted"]] == [said["answer"], None]
    new = ("edit", file, "--store", str(tmp_path / "none"), *base_flags, *more)
    assert told(capsys, *new)["admitted"][0]["answer"] == said["base_answer"] != said["answer"]
    assert not (tmp_path / "none").exists() or not any((tmp_path / "none").iterdir())
    assert main(["edit", file, "--store", store, *more]) == 0
    assert "answer now" in capsys.readouterr().out


def test_the_time_in_a_new_store_is_a_guess_for_the_embedded_base_alone(
    tmp_path: Path, base_flags: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_rows(tmp_path / "edits.jsonl", ROWS)
    argv = ("edit", file, "--store", str(tmp_path / "none"), "--dry-run")
    rough = told(capsys, *argv)
    assert (rough["is_rough"], rough["collisions"], rough["version"]) == (True, None, 0)
    assert rough["train_seconds"] < rough["eval_seconds"] < 60
    assert main([*argv]) == 0
    assert "very roughly" in capsys.readouterr().out
    unknown = told(capsys, *argv, *base_flags)
    assert (unknown["train_seconds"], unknown["eval_seconds"]) == (None, None)
    assert main([*argv, *base_flags]) == 0
    assert "unknown for this base before the first wave" in capsys.readouterr().out
