"""A store in words."""

from dataclasses import replace
from pathlib import Path

from scen.evaluation.metrics import EvalReport
from scen.fs import Storage
from scen.report.store import StoreFacts, Wanted, read_store
from scen.report.tables import concerns, measures, number, percent, summary, verdict

REPORT = EvalReport(
    n_edits=8, reliability=0.875, reliability_before=0.0,
    generality={"a": 0.5, "b": 1.0}, generality_before={"a": 0.0, "b": 0.0}, routing={},
    locality_unchanged=1.0, logits_identical=1.0, near_miss_unchanged=None, teacher_forced={},
    counts={"reliability": 8, "locality": 1500, "near_miss": 0, "generality_a": 2,
            "generality_b": 6, "retention": 0},
)  # fmt: skip


def test_shares_come_with_their_counts() -> None:
    assert summary(REPORT) == (
        "7 of 8 edits answered exactly (87.5 %), 7 of 8 rephrases answered exactly (87.5 %), "
        "1,500 of 1,500 unrelated answers unchanged (100.0 %)"
    )
    shares = {name: (share, asked) for name, share, asked in measures(REPORT)}
    assert shares["near misses unchanged"] == (None, 0)
    assert shares["earlier edits still answered"] == (None, 0)


def test_the_verdict_is_of_the_newest_wave_of_the_ledger(facts: StoreFacts) -> None:
    first, second, third = verdict(facts)
    assert first == "Version 4 has 5 active edits (3 streams)."
    assert second.startswith("The newest wave (news, wave 0, version 3): 0 of 2 edits answered")
    assert third.startswith("Measured again at version 4: 0 of 5 edits answered")


def test_what_is_worth_a_look(facts: StoreFacts) -> None:
    assert concerns(facts) == [
        "5 active edits not answered exactly when last measured",
        "1 wave held by the gate",
        "3 rows of files set aside",
    ]
    assert concerns(replace(facts, edits=(), waves=(), quarantine=(), refused=2)) == [
        "2 edits handed in one by one and not taken"
    ]


def test_an_empty_version(made: Path) -> None:
    facts = read_store(Storage(str(made)), Wanted(version=0))
    assert verdict(facts)[1] == "No wave of it was measured here."


def test_numbers() -> None:
    assert [number(v) for v in (None, 3, 0.123456, 12345.6)] == ["-", "3", "0.1235", "12,345.6"]
    assert [percent(v) for v in (None, 0.0, 1.0)] == ["-", "0.0 %", "100.0 %"]
