"""The ledger: what is committed is read back, as it was at any version, and once."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from deltalake import DeltaTable, QueryBuilder

from scen.errors import ConfigError, ConflictError, NotFoundError
from scen.fs import Storage
from scen.ledger.ledger import CommitResult, Ledger, WaveCommit, open_ledger
from scen.records import Edit, Rephrase, edit_from_dict

MakeWave = Callable[..., WaveCommit]

ODD = Edit(
    id="münchen-東京",
    prompt="Кто мэр? 🏛️ \u200bשם\n\ttab \"quote\" 'tick' \\ %20",
    target="e\u0301 is not é",
    subject="",
    rephrases=(Rephrase("¿Quién?", "orig"), Rephrase("誰ですか")),
    near_misses=("Où ?",),
    valid_until=datetime(2030, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
    metadata={"ключ": "значение"},
)


def test_a_new_ledger_is_version_0_and_empty(ledger: Ledger) -> None:
    assert ledger.version() == 0
    assert ledger.snapshot().entries == ()
    assert ledger.log() == []


def test_a_commit_is_read_back_in_the_order_of_commits(
    ledger: Ledger, storage: Storage, make_wave: MakeWave
) -> None:
    late, early = make_wave("late", index=9, num_edits=12), make_wave("early", index=1)
    assert ledger.commit(late, 0) == CommitResult(1, False)
    assert ledger.commit(early, 1) == CommitResult(2, False)
    snapshot = open_ledger(storage).snapshot()
    assert snapshot.version == 2
    assert [entry.edit for entry in snapshot.entries] == [*late.edits, *early.edits]
    assert snapshot.ids == [edit.id for edit in (*late.edits, *early.edits)]
    last = snapshot.entries[-1]
    assert (last.edit_id, last.stream, last.wave, last.wave_key) == ("early-1", "news", 1, "early")
    assert (last.bundle, last.row, last.version) == (f"{1:064x}", 1, 2)
    assert timedelta() <= datetime.now(UTC) - last.committed_at < timedelta(minutes=5)


def test_the_log_lists_each_commit(ledger: Ledger, make_wave: MakeWave) -> None:
    for index, key in enumerate(["a", "b", "c"]):
        ledger.commit(make_wave(key, index, num_edits=index + 1), index)
    log = ledger.log()
    assert [(e.version, e.wave_key, e.num_edits) for e in log] == [
        (1, "a", 1),
        (2, "b", 2),
        (3, "c", 3),
    ]
    assert log[0].stream == "news"
    assert log[1].metadata == {"why": "monday", "bundle": f"{1:064x}"}
    assert log[0].committed_at <= log[1].committed_at <= log[2].committed_at


def test_any_reader_of_delta_finds_one_row_per_edit(ledger: Ledger, storage: Storage) -> None:
    ledger.commit(WaveCommit("w", "news", 0, "0" * 64, [ODD]), 0)
    query = QueryBuilder().register("edits", DeltaTable(storage.child_uri("ledger")))
    found = query.execute(f"select * from edits where edit_id = '{ODD.id}'").read_all()
    (row,) = pa.table(found).to_pylist()
    assert edit_from_dict(json.loads(row["edit_json"])) == ODD
    assert row["edit_digest"] == ODD.digest
    assert (row["edit_id"], row["prompt"], row["target"]) == (ODD.id, ODD.prompt, ODD.target)
    assert (row["event"], row["subject"], row["author"]) == ("committed", "", None)


def test_all_of_an_edit_survives(ledger: Ledger) -> None:
    ledger.commit(WaveCommit("w", "новости", 0, "0" * 64, [ODD], {"why": "почему ✓"}), 0)
    entry = ledger.find(ODD.id)
    assert entry.edit == ODD
    assert entry.edit.digest == ODD.digest
    assert (entry.stream, ledger.log()[0].metadata["why"]) == ("новости", "почему ✓")


def test_the_same_wave_again_gives_its_version(ledger: Ledger, make_wave: MakeWave) -> None:
    ledger.commit(make_wave("a"), 0)
    ledger.commit(make_wave("b"), 1)
    assert ledger.is_committed("a") == 1
    assert ledger.is_committed("c") is None
    for expected_version in (0, 1, 2):
        assert ledger.commit(make_wave("a"), expected_version) == CommitResult(1, True)
    assert ledger.version() == 2
    assert len(ledger.snapshot().entries) == 4


@pytest.mark.parametrize("expected_version", [0, 2])
def test_a_stale_version_is_refused_and_nothing_is_written(
    ledger: Ledger, storage: Storage, make_wave: MakeWave, expected_version: int
) -> None:
    ledger.commit(make_wave("a"), 0)
    files = storage.names("")
    with pytest.raises(ConflictError, match=f"expected version {expected_version}, found 1"):
        ledger.commit(make_wave("b"), expected_version)
    assert storage.names("") == files
    assert ledger.is_committed("b") is None
    assert ledger.commit(make_wave("b"), 1) == CommitResult(2, False)


def test_what_was_read_before_changes_nothing(
    ledger: Ledger, storage: Storage, make_wave: MakeWave
) -> None:
    """A ledger reads on from the newest version that it has read; others may commit meanwhile."""
    other = open_ledger(storage)
    for version, key in enumerate(["a", "b", "c"]):
        assert ledger.snapshot() == open_ledger(storage).snapshot()
        other.commit(make_wave(key, version, num_edits=3 - version), version)
    newest = ledger.snapshot()
    assert newest == open_ledger(storage).snapshot() == ledger.snapshot()
    assert len(newest.entries) == 6
    for version in (2, 0, 1, 3):
        assert ledger.snapshot(version) == open_ledger(storage).snapshot(version)


def test_an_old_version_is_read_as_it_was(ledger: Ledger, make_wave: MakeWave) -> None:
    ledger.commit(make_wave("a"), 0)
    then = ledger.snapshot()
    ledger.commit(make_wave("b"), 1)
    assert ledger.snapshot(1) == then
    assert ledger.snapshot(0).entries == ()
    with pytest.raises(NotFoundError, match="'b-0' is not in version 1"):
        ledger.find("b-0", version=1)


@pytest.mark.parametrize("version", [-1, 2, 10**12])
def test_an_unknown_version_names_the_range(
    ledger: Ledger, make_wave: MakeWave, version: int
) -> None:
    ledger.commit(make_wave("a"), 0)
    with pytest.raises(NotFoundError, match=f"{version} is not one of 0 to 1"):
        ledger.snapshot(version)


def test_find_suggests_ids_that_look_alike(ledger: Ledger, make_wave: MakeWave) -> None:
    ledger.commit(make_wave("mayor"), 0)
    assert ledger.find("mayor-1").row == 1
    with pytest.raises(NotFoundError, match=r"did you mean mayor-[01]"):
        ledger.find("mayro-1")
    with pytest.raises(NotFoundError) as caught:
        ledger.find("zzz")
    assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize("key", ["", "A", "../a", "a/b", "-a", "a b", "a\n", "é", "a" * 129])
def test_a_bad_wave_key_is_refused(ledger: Ledger, make_wave: MakeWave, key: str) -> None:
    with pytest.raises(ConfigError, match="wave_key"):
        ledger.commit(replace(make_wave("a"), wave_key=key), 0)
    assert ledger.version() == 0


def test_a_wave_needs_edits_and_each_of_them_once(ledger: Ledger, make_wave: MakeWave) -> None:
    wave = make_wave("a" * 128)
    with pytest.raises(ConfigError, match="no edits"):
        ledger.commit(replace(wave, edits=[]), 0)
    with pytest.raises(ConfigError, match=r"a-1'\] are in it more than once"):
        ledger.commit(replace(wave, edits=[*wave.edits, wave.edits[1]]), 0)
    assert ledger.commit(wave, 0) == CommitResult(1, False)


def test_an_edit_that_is_live_is_refused(ledger: Ledger, make_wave: MakeWave) -> None:
    wave = make_wave("a")
    ledger.commit(wave, 0)
    with pytest.raises(ConfigError, match=r"\['a-0', 'a-1'\] are in the ledger already"):
        ledger.commit(replace(wave, wave_key="b"), 1)
    assert ledger.version() == 1
