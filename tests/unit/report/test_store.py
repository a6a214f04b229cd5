"""What is read of a store."""

import json
from pathlib import Path

import pytest

from scen.config import WaveConfig
from scen.data.rows import Rejection
from scen.data.stream import QuarantineFile
from scen.errors import IntegrityError, NotFoundError
from scen.fs import Storage
from scen.ledger.actions import About, Rollback
from scen.ledger.ledger import open_ledger
from scen.pipeline.gate import promote, reject
from scen.report.store import (
    StoreFacts,
    Wanted,
    group_reasons,
    newest_evaluations,
    read_quarantine,
    read_store,
)


def test_the_life_of_a_store(facts: StoreFacts) -> None:
    assert facts.life == (0, 3, 5, 6, 5)
    assert [entry.action for entry in facts.commits] == ["commit", "commit", "commit", "revoke"]
    assert facts.streams == ("facts", "late", "news")
    waves = [(w.name, w.status, w.version) for w in facts.waves]
    assert waves == [
        ("facts, wave 0", "committed", 1),
        ("facts, wave 1", "committed", 2),
        ("news, wave 0", "committed", 3),
        ("late, wave 0", "held", None),
    ]
    assert all(w.report is not None and w.seconds and w.bytes_per_edit for w in facts.waves)
    assert facts.waves[-1].reasons == ("reliability 0 is below waves.min_reliability 1",)


def test_every_edit_is_told_of_with_its_newest_answer(facts: StoreFacts) -> None:
    told = {row["edit_id"]: (row["status"], row["measured_at"]) for row in facts.edits}
    assert told == {
        "f0": ("superseded by n0 in version 3", 2),
        "f1": ("revoked in version 4", 3),
        **dict.fromkeys(("f2", "f3", "f4", "n0", "n1"), ("active", 4)),
        **dict.fromkeys(("l0", "l1"), ("held", None)),
    }
    assert all(row["rephrases"] == 1 and row["after"] is not None for row in facts.edits)


def test_evaluations_and_rows_set_aside(facts: StoreFacts) -> None:
    (again,) = facts.evaluations
    assert (again.version, again.report.n_edits) == (4, 5)
    assert [(row["row"], row["id"]) for row in facts.quarantine] == [
        (6, "bad"),
        (7, "worse"),
        (8, "f4b"),
    ]


def test_an_earlier_version_is_told_as_it_was(made: Path) -> None:
    facts = read_store(Storage(str(made)), Wanted(version=2))
    assert (facts.version, facts.newest, facts.life) == (2, 4, (0, 3, 5))
    assert [wave.version for wave in facts.waves] == [1, 2]
    assert facts.evaluations == ()
    assert {row["edit_id"]: row["status"] for row in facts.edits} == dict.fromkeys(
        ("f0", "f1", "f2", "f3", "f4"), "active"
    )


def test_one_stream(made: Path) -> None:
    facts = read_store(Storage(str(made)), Wanted(stream="news"))
    assert facts.life == (0, 0, 0, 2, 2)
    assert [row["edit_id"] for row in facts.edits] == ["n0", "n1"]
    assert [entry.version for entry in facts.commits] == [3]
    assert [wave.stream for wave in facts.waves] == ["news"]
    assert facts.evaluations[0].report.n_edits == 2
    assert facts.quarantine == ()
    assert read_store(Storage(str(made)), Wanted(stream="facts")).quarantine


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (Wanted(version=9), "--version: 9 is not one of 0 to 4"),
        (Wanted(stream="olds"), "'olds' is not in version 4; it has facts, late, news"),
    ],
)
def test_what_is_not_there(made: Path, wanted: Wanted, words: str) -> None:
    with pytest.raises(NotFoundError, match=words):
        read_store(Storage(str(made)), wanted)


def test_a_rollback_brings_edits_back(store: Storage) -> None:
    open_ledger(store).act(Rollback(2, About("again")), 4)
    facts = read_store(store, Wanted())
    assert facts.life == (0, 3, 5, 6, 5, 5)
    assert [r["edit_id"] for r in facts.edits if r["status"] == "active"] == [
        f"f{i}" for i in range(5)
    ]


def test_waves_that_were_rejected_or_not_finished(store: Storage) -> None:
    facts = read_store(store, Wanted())
    (held,) = facts.waves_of("held")
    rules = store.read_json(f"waves/{held.key}/planned.json")
    store.put_json(f"waves/{held.key}-2/planned.json", rules)
    reject(store, open_ledger(store), held.key, WaveConfig(why="no", who="ann"))
    facts = read_store(store, Wanted())
    assert [(w.status, w.report is None) for w in facts.waves[3:]] == [
        ("rejected", False),
        ("unfinished", True),
    ]
    assert not [row for row in facts.edits if row["status"] == "held"]


def test_a_wave_that_was_promoted(store: Storage) -> None:
    (held,) = read_store(store, Wanted()).waves_of("held")
    assert promote(store, open_ledger(store), held.key, WaveConfig(why="fine", who="ann")) == 5
    facts = read_store(store, Wanted())
    (wave,) = facts.waves_of("promoted")
    assert (wave.version, wave.reasons) == (5, held.reasons)
    assert {row["status"] for row in facts.edits if row["stream"] == "late"} == {"active"}


def test_a_store_without_journals_is_told_from_its_ledger(store: Storage) -> None:
    for name in [*store.names("waves"), *store.names("evaluations"), *store.names("quarantine")]:
        store.delete(name)
    facts = read_store(store, Wanted())
    assert [(w.name, w.num_edits, w.report) for w in facts.waves] == [
        ("facts, wave 0", 3, None),
        ("facts, wave 1", 2, None),
        ("news, wave 0", 2, None),
    ]
    assert facts.measured_waves == ()
    assert "after" not in facts.edits[0]


@pytest.mark.parametrize("step", ["evaluated.json", "per_edit", "held.json"])
def test_a_damaged_file_is_named(store: Storage, step: str) -> None:
    name = next(name for name in store.names("waves") if f"/{step}" in name)
    whole = store.read(name)
    store.delete(name)
    store.put_new(name, whole[:-20])
    with pytest.raises(IntegrityError, match=f"{step}.*is cut off or changed"):
        read_store(store, Wanted())


def test_edits_of_the_inbox_that_were_refused_are_counted(store: Storage) -> None:
    store.put_new("inbox/news/rejected/ab.json", json.dumps({"field": "x", "reason": "y"}).encode())
    assert read_store(store, Wanted()).refused == 1
    assert read_store(store, Wanted(stream="facts")).refused == 0


def test_the_newest_up_to_a_version_the_oldest_first(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    for version in range(25):
        storage.put_new(f"evaluations/v{version}-ab.jsonl", b"")
    storage.put_new("evaluations/notes.txt", b"")
    assert [version for version, _ in newest_evaluations(storage, 11)] == list(range(12))
    assert [version for version, _ in newest_evaluations(storage, 24)] == list(range(5, 25))


def write(storage: Storage, name: str, reasons: list[str]) -> None:
    with QuarantineFile(storage.child_uri(f"quarantine/{name}.parquet")) as file:
        rows = [Rejection(i, f"id{i}", "prompt", reason, "raw") for i, reason in enumerate(reasons)]
        file.add(rows)


def test_reasons_of_one_kind_are_counted_together(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    write(storage, "news-00000000", [
        "is empty",
        "edit a is committed with the target 'x'",
        "edit bb is committed with the target 'y z'",
        "is 300 tokens long",
        "is 301 tokens long",
        "is 302 tokens long",
    ])  # fmt: skip
    found = group_reasons(read_quarantine(storage, None))
    assert [(row["rows"], row["row"]) for row in found] == [(3, 3), (2, 1), (1, 0)]
    assert found[1]["reason"] == "edit a is committed with the target 'x'"
    assert found[0]["file"] == "news-00000000.parquet"


def test_a_stream_is_not_another_that_begins_with_its_name(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    for name in ("news-00000000", "news-old-11111111", "streams-22222222"):
        write(storage, name, [name])
    assert [r["reason"] for r in read_quarantine(storage, "news")] == ["news-00000000"]
    assert len(read_quarantine(storage, None)) == 3


def test_a_damaged_quarantine_file_is_named(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    storage.put_new("quarantine/a-00000000.parquet", b"not parquet")
    with pytest.raises(IntegrityError, match=r"a-00000000\.parquet cannot be read"):
        read_quarantine(storage, None)
