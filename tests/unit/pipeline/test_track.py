"""A committed wave is tracked once, at the latest by the next run."""

import logging
from collections.abc import Callable
from dataclasses import replace

import pytest

from scen.errors import ScenError
from scen.pipeline.local import LocalParts
from scen.pipeline.plan import Journal, Wave
from scen.pipeline.stream import StreamStep, run_stream, settings
from scen.records import Edit
from scen.tracking.client import WaveRecord
from scen.tracking.figures import wave_figures
from scen.tracking.wave_runs import finite_metrics, wave_tables

MakeParts = Callable[..., LocalParts]


class Diary:
    """A tracker that keeps records, while it is up."""

    def __init__(self) -> None:
        self.records: list[WaveRecord] = []
        self.is_up = True

    def track_wave(self, record: WaveRecord) -> str:
        """Keep a record, or raise ScenError."""
        if not self.is_up:
            raise ScenError("tracking: the diary is closed")
        self.records.append(record)
        return f"run-{len(self.records)}"


@pytest.fixture
def diary() -> Diary:
    return Diary()


@pytest.fixture
def tracked(parts: LocalParts, diary: Diary) -> LocalParts:
    """Parts that write to the diary."""
    return replace(parts, tracker=diary)


def run(parts: LocalParts, edits: list[Edit]) -> list[StreamStep]:
    """All steps of a stream."""
    return list(run_stream("news", [edits], parts.store, parts.config, parts))


def run_ids(steps: list[StreamStep]) -> list[str | None]:
    """The tracker's run of each wave."""
    return [step.report.tracked["run_id"] for step in steps if step.report]


def test_a_tracker_gets_the_record_of_each_wave(
    tracked: LocalParts, diary: Diary, facts: list[Edit]
) -> None:
    [step, _] = run(tracked, facts[:4])
    record, last = diary.records
    assert step.report is not None
    assert (record.wave_key, record.stream, record.wave) == (step.report.key, "news", 0)
    assert (record.ledger_version, last.ledger_version) == (1, 2)
    assert (record.num_edits, last.num_edits) == (3, 1)
    assert record.base_name == tracked.store.base.name
    assert record.dataset_digest != last.dataset_digest
    assert record.params["expert.steps"] == 20
    assert record.params["method.layer"] == 3
    assert record.params["base"] == tracked.store.base.fingerprint
    assert record.metrics["eval/reliability_after"] == 1.0
    assert record.metrics["eval/generality_orig_before"] == 0.0
    assert record.metrics["train/seconds"] > 0
    assert record.metrics["train/seconds_per_edit"] == record.metrics["train/seconds"] / 3
    assert record.metrics["train/bytes_per_edit"] == 1024 + 256
    assert record.threshold == tracked.store.threshold
    waits = [record.metrics[f"latency/answer_seconds_{name}"] for name in ("median", "p95")]
    assert 0 < waits[0] <= waits[1]
    assert record.metrics["latency/seconds_per_probe"] > 0
    peak = record.metrics["system/process_memory_peak_megabytes"]
    assert peak >= max(row["process_memory_megabytes"] for row in record.system) > 50
    assert len(record.system) >= 2  # of the training and of the evaluation
    assert len(record.loss_curves) == 3
    assert [row["edit_id"] for row in record.per_edit if row["kind"] == "reliability"] == [
        "edit-0",
        "edit-1",
        "edit-2",
    ]


def test_what_is_shown_of_a_wave_with_others_before_it(
    tracked: LocalParts, diary: Diary, facts: list[Edit]
) -> None:
    run(tracked, facts)
    first, last = diary.records
    names = ["loss_curves", "before_after", "routing_operating_curve", "routes"]
    assert list(wave_figures(first, finite_metrics(first))) == names
    assert list(wave_figures(last, finite_metrics(last))) == [*names, "retention_by_age"]
    asked = [row["edit_id"] for row in last.per_edit if row["kind"] == "retention"]
    assert asked == ["edit-0", "edit-1", "edit-2"]  # the oldest first
    tables = wave_tables(last)
    assert {row["probes"] for row in tables["routes.json"]} == {
        "prompts",
        "rephrases, orig",
        "earlier prompts",
        "near misses",
        "unrelated prompts",
    }
    cuts = [row["threshold"] for row in tables["routing_operating_curve.json"]]
    assert tracked.store.threshold in cuts


def test_a_wave_is_tracked_once(tracked: LocalParts, diary: Diary, facts: list[Edit]) -> None:
    assert run_ids(run(tracked, facts)) == ["run-1", "run-2"]
    assert run_ids(run(tracked, facts)) == ["run-1", "run-2"]
    assert len(diary.records) == 2


def test_the_next_run_tracks_what_a_failed_tracker_missed(
    tracked: LocalParts, diary: Diary, facts: list[Edit], caplog: pytest.LogCaptureFixture
) -> None:
    diary.is_up = False
    with caplog.at_level(logging.WARNING):
        assert run_ids(run(tracked, facts)) == [None, None]
    assert tracked.store.ledger.version() == 2
    assert "is committed but not tracked yet (tracking: the diary is closed)" in caplog.text
    diary.is_up = True
    assert run_ids(run(tracked, facts)) == ["run-1", "run-2"]
    assert [record.ledger_version for record in diary.records] == [1, 2]
    assert tracked.store.ledger.version() == 2


def test_the_next_wave_tracks_what_was_queued(
    tracked: LocalParts, diary: Diary, facts: list[Edit]
) -> None:
    diary.is_up = False
    stream = run_stream("news", [facts], tracked.store, tracked.config, tracked)
    first = next(stream)
    diary.is_up = True
    assert run_ids([first, *stream]) == [None, "run-1"]
    assert [record.ledger_version for record in diary.records] == [2, 1]
    assert run_ids(run(tracked, facts)) == ["run-2", "run-1"]
    assert len(diary.records) == 2


def test_the_next_run_of_a_longer_file_tracks_what_was_queued(
    tracked: LocalParts, diary: Diary, facts: list[Edit]
) -> None:
    diary.is_up = False
    run(tracked, facts[:2])
    diary.is_up = True
    steps = run(tracked, facts[:3])
    assert [record.num_edits for record in diary.records] == [2, 1]
    assert [record.ledger_version for record in diary.records] == [1, 2]
    assert run_ids(steps) == ["run-1", "run-2"]
    assert sum(len(step.admission.known) for step in steps) == 2


def test_nothing_is_tracked_under_other_settings(
    make_parts: MakeParts, tracked: LocalParts, diary: Diary, facts: list[Edit]
) -> None:
    diary.is_up = False
    run(tracked, facts[:2])
    diary.is_up = True
    changed = replace(make_parts(expert={"steps": 5}), tracker=diary)
    assert [step.report for step in run(changed, facts[:2])] == [None]
    assert diary.records == []
    assert run_ids(run(tracked, facts[:2])) == ["run-1"]


def test_the_next_run_tracks_a_wave_with_a_rejected_edit(
    tracked: LocalParts, diary: Diary, facts: list[Edit]
) -> None:
    """What is committed is less than the wave that was cut."""
    run(tracked, facts[:1])
    file = [replace(facts[0], id="again", target="isle"), *facts[1:3]]
    diary.is_up = False
    assert run_ids(run(tracked, file)) == [None]
    diary.is_up = True
    for _ in range(2):
        steps = run(tracked, file)
        assert sum(len(step.admission.rejections) for step in steps) == 1
    assert [record.num_edits for record in diary.records] == [1, 2]
    assert tracked.store.ledger.version() == 2


def test_records_of_an_earlier_release_are_tracked(
    tracked: LocalParts, diary: Diary, facts: list[Edit]
) -> None:
    """A wave that was evaluated before anything was timed, and is told now."""
    run(tracked, facts[:2])
    [told] = diary.records
    wave = Wave("news", 0, tuple(facts[:2]), settings(tracked.config, tracked.store))
    journal = Journal(tracked.store.storage, wave.key)
    found = journal.read("evaluated") | {"losses": journal.read("trained")["losses"]}
    for name in ("threshold", "latency", "memory", "system_path"):
        del found[name]
    tracked.store.storage.delete(f"{journal.folder}/tracked.json")
    assert tracked.track(wave, journal, found, 1) == {"run_id": "run-2"}
    late = diary.records[-1]
    assert (late.threshold, late.system) == (None, [])
    missing = set(told.metrics) - set(late.metrics)
    assert {name.partition("/")[0] for name in missing} == {"latency", "system"}
    assert replace(late, threshold=told.threshold, system=told.system, metrics=told.metrics) == told
