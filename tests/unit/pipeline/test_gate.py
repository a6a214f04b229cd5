"""The gate: a wave under a bound is held, and then promoted or rejected; nothing else changes."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from scen.config import WaveConfig
from scen.errors import ConfigError, ConflictError, NotFoundError
from scen.ledger.collect import Keep, plan_collection
from scen.pipeline.gate import broken_bounds, candidates, promote, reject
from scen.pipeline.local import LocalParts
from scen.pipeline.plan import Journal
from scen.pipeline.run_wave import WaveReport
from scen.pipeline.stream import StreamStep, run_stream
from scen.records import Edit

MakeParts = Callable[..., LocalParts]
ABOUT = WaveConfig(why="looked at it", who="ann")


def run(parts: LocalParts, edits: list[Edit], stream: str = "news") -> list[StreamStep]:
    """All steps of a stream."""
    return list(run_stream(stream, [edits], parts.store, parts.config, parts))


@pytest.fixture
def strict(make_parts: MakeParts) -> LocalParts:
    """Parts that ask for more than one step of training can give."""
    return make_parts(expert={"steps": 1}, waves={"min_reliability": 0.9})


@pytest.fixture
def held(strict: LocalParts, facts: list[Edit]) -> WaveReport:
    """A wave of three that is held."""
    (step,) = run(strict, facts[:3])
    assert step.report is not None
    return step.report


def keys(parts: LocalParts) -> list[str]:
    """The waves that are held."""
    return [one.wave.key for one in candidates(parts.store.storage, parts.store.ledger)]


@pytest.mark.parametrize(
    ("report", "broken"),
    [
        ({"reliability": 0.95, "locality_unchanged": 1.0, "retention": 0.9}, []),
        ({"reliability": 0.9499}, ["reliability 0.9499 is below waves.min_reliability 0.95"]),
        ({"reliability": None, "retention": None}, []),
        (
            {"reliability": 1.0, "locality_unchanged": 0.5, "retention": 0.0},
            [
                "locality_unchanged 0.5 is below waves.min_locality 0.99",
                "retention 0 is below waves.min_retention 0.9",
            ],
        ),
    ],
)
def test_bounds(report: dict[str, float | None], broken: list[str]) -> None:
    bounds = WaveConfig(min_reliability=0.95, min_locality=0.99, min_retention=0.9)
    assert broken_bounds(report, bounds) == broken
    assert broken_bounds(report, WaveConfig()) == []


def test_a_wave_under_a_bound_is_held(
    strict: LocalParts, held: WaveReport, facts: list[Edit]
) -> None:
    assert held.version is None
    assert [reason.split(" is below ")[1] for reason in held.held_for] == [
        "waves.min_reliability 0.9"
    ]
    assert strict.store.ledger.version() == 0
    assert not Journal(strict.store.storage, held.key).has("tracked")
    (again,) = run(strict, facts[:3])
    assert again.report == held
    (one,) = candidates(strict.store.storage, strict.store.ledger)
    assert one.wave.key == held.key
    assert one.wave.edits == tuple(facts[:3])
    assert one.report == held.evaluated["report"]


def test_later_waves_go_on_past_a_held_one(
    make_parts: MakeParts, strict: LocalParts, held: WaveReport, facts: list[Edit]
) -> None:
    fine = make_parts(waves={"min_reliability": 0.9})
    reports = [step.report for step in run(fine, facts[3:], "other")]
    assert [report.version for report in reports if report] == [1]
    assert promote(strict.store.storage, strict.store.ledger, held.key, ABOUT) == 2
    assert set(strict.store.ledger.snapshot().ids) == {edit.id for edit in facts}


def test_a_promoted_wave_is_committed_once(
    strict: LocalParts, held: WaveReport, facts: list[Edit]
) -> None:
    storage, ledger = strict.store.storage, strict.store.ledger
    assert [promote(storage, ledger, held.key, ABOUT) for _ in range(2)] == [1, 1]
    assert keys(strict) == []
    (told,) = ledger.log()
    assert (told.why, told.who, told.wave_key) == ("looked at it", "ann", held.key)
    assert told.metadata["held_for"] == held.held_for[0]
    (step,) = run(strict, facts[:3])
    assert (len(step.admission.known), ledger.version()) == (3, 1)
    with pytest.raises(ConfigError, match="was promoted; `scen revoke`"):
        reject(storage, ledger, held.key, ABOUT)


def test_a_promotion_that_was_cut_off_is_ended_by_the_next_run(
    strict: LocalParts, held: WaveReport, facts: list[Edit]
) -> None:
    Journal(strict.store.storage, held.key).once("promoted", lambda: {"who": "ann"})
    (step,) = run(strict, facts[:3])
    assert step.report is not None
    assert step.report.version == 1


def test_a_rejected_wave_stays_out_and_its_bundle_can_go(
    strict: LocalParts, held: WaveReport, make_parts: MakeParts, facts: list[Edit]
) -> None:
    storage, ledger = strict.store.storage, strict.store.ledger
    later = datetime.now(UTC) + timedelta(days=2)
    bundle = f"bundles/{Journal(storage, held.key).read('trained')['bundle']}.safetensors"

    def can_go() -> bool:
        plan = plan_collection(storage, ledger, Keep.for_days(later, 1))
        return bundle in [file.path for file in plan.files]

    assert not can_go()
    reject(storage, ledger, held.key, ABOUT)
    assert can_go()
    assert keys(strict) == []
    (again,) = run(make_parts(expert={"steps": 1}), facts[:3])  # without the bound
    assert again.report is not None
    assert (again.report.version, ledger.version()) == (None, 0)
    with pytest.raises(ConfigError, match="was rejected"):
        promote(storage, ledger, held.key, ABOUT)


def test_a_wave_that_others_contradict_by_now_is_not_promoted(
    strict: LocalParts, held: WaveReport, make_parts: MakeParts, facts: list[Edit]
) -> None:
    other = Edit("other", facts[0].prompt, "no")
    run(make_parts(), [other], "other")
    with pytest.raises(ConflictError, match="edit other is committed with the same prompt"):
        promote(strict.store.storage, strict.store.ledger, held.key, ABOUT)
    rules = ABOUT.model_copy(update={"on_conflict": "supersede"})
    assert promote(strict.store.storage, strict.store.ledger, held.key, rules) == 2
    assert strict.store.ledger.snapshot().state.describe("other") != "active"


def test_only_held_waves_are_decided(parts: LocalParts, facts: list[Edit]) -> None:
    (step,) = run(parts, facts[:3])
    assert step.report is not None
    for key in (step.report.key, "none"):
        with pytest.raises(NotFoundError, match="is not held"):
            promote(parts.store.storage, parts.store.ledger, key, ABOUT)
        with pytest.raises(NotFoundError, match="is not held"):
            reject(parts.store.storage, parts.store.ledger, key, ABOUT)


def test_earlier_edits_are_asked_again(make_parts: MakeParts, facts: list[Edit]) -> None:
    parts = make_parts(evaluation={"retention_limit": 2}, waves={"min_retention": 1.0, "size": 2})
    reports = [step.report.evaluated["report"] for step in run(parts, facts) if step.report]
    assert [report["counts"]["retention"] for report in reports] == [0, 2, 2]
    assert [report["retention"] for report in reports] == [None, 1.0, 1.0]
    assert parts.store.ledger.version() == 3
