"""A stream may be run again, appended to and cut otherwise: nothing is lost, nothing doubled."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scen.errors import ConfigError
from scen.ledger.actions import Expire
from scen.pipeline.local import LocalParts
from scen.pipeline.plan import Wave
from scen.pipeline.stream import StreamStep, check_name, name_stream, run_stream, settings
from scen.records import Edit

MakeParts = Callable[..., LocalParts]


def run(parts: LocalParts, edits: list[Edit], stream: str = "news") -> list[StreamStep]:
    """All steps of a stream."""
    return list(run_stream(stream, [edits], parts.store, parts.config, parts))


def counted(parts: LocalParts) -> tuple[LocalParts, list[int]]:
    """The parts, and how many edits each call of `train` brought through."""
    trained: list[int] = []

    def progress(step: str, done: int, _total: int) -> None:
        if step == "train":
            trained.append(done)

    return replace(parts, progress=progress), trained


def outcome(steps: list[StreamStep]) -> list[tuple[int, int, int, int | None]]:
    """Per step: fresh, known and rejected edits, and the version that holds them."""
    return [
        (
            len(step.admission.fresh),
            len(step.admission.known),
            len(step.admission.rejections),
            step.report.version if step.report else None,
        )
        for step in steps
    ]


@pytest.mark.parametrize("name", ["zsre-2026", "0", "a.b_c-d", "a" * 64])
def test_names_that_may_be_a_stream_s(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", "News", "a b", "-a", ".a", "a/b", "é", "a" * 65, "a\n"])
def test_names_that_may_not_be_a_stream_s(name: str) -> None:
    with pytest.raises(ConfigError, match=r"--stream: .* must be lower-case") as caught:
        check_name(name)
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("data/zsre.jsonl", "zsre"),
        ("s3://bucket/deep/My Facts (2026).jsonl.gz", "my-facts-2026"),
        ("hf://datasets/some/Facts/", "facts"),
        ("_Wöchentlich_.csv", "w-chentlich"),
        ("/data/.hidden", "stream"),
        ("日本.json", "stream"),
        ("a" * 90 + ".csv", "a" * 64),
    ],
)
def test_a_stream_is_named_after_its_file(uri: str, name: str) -> None:
    assert name_stream(uri) == name


@given(st.text())
def test_a_name_from_a_file_may_always_be_a_stream_s(uri: str) -> None:
    assert check_name(name_stream(uri))


def test_a_wrong_name_is_refused_before_anything_is_done(
    parts: LocalParts, facts: list[Edit]
) -> None:
    with pytest.raises(ConfigError, match="--stream"):
        run(parts, facts, "No Name")
    assert parts.store.storage.names("waves") == []


def test_committed_waves_are_passed_by(parts: LocalParts, facts: list[Edit]) -> None:
    parts, trained = counted(parts)
    first = run(parts, facts)
    assert (outcome(first), sum(trained)) == ([(3, 0, 0, 1), (3, 0, 0, 2)], 6)
    files = parts.store.storage.names("")
    again = run(parts, facts)
    assert (outcome(again), sum(trained)) == ([(0, 3, 0, 1), (0, 3, 0, 2)], 6)
    assert [step.report for step in again] == [step.report for step in first]
    assert parts.store.storage.names("") == files
    assert parts.store.ledger.snapshot().ids == [edit.id for edit in facts]


def test_what_is_appended_is_all_that_is_trained(parts: LocalParts, facts: list[Edit]) -> None:
    parts, trained = counted(parts)
    run(parts, facts[:4])
    assert sum(trained) == 4
    assert outcome(run(parts, facts)) == [(0, 3, 0, 1), (2, 1, 0, 3)]
    assert sum(trained) == 6
    assert parts.store.ledger.snapshot().ids == [edit.id for edit in facts]
    assert [entry.num_edits for entry in parts.store.ledger.log()] == [3, 1, 2]


def test_another_cut_or_stream_trains_nothing_again(
    parts: LocalParts, facts: list[Edit], make_parts: MakeParts
) -> None:
    run(parts, facts)
    recut, trained = counted(make_parts(waves={"size": 5}))
    assert outcome(run(recut, facts)) == [(0, 5, 0, None), (0, 1, 0, None)]
    assert outcome(run(recut, facts, "olds")) == [(0, 5, 0, None), (0, 1, 0, None)]
    assert (trained, recut.store.ledger.version()) == ([], 2)


def test_conflicts_are_reported_and_the_others_are_committed(
    parts: LocalParts, facts: list[Edit]
) -> None:
    run(parts, facts[:3])
    changed = replace(facts[1], target="isle")
    reasked = replace(facts[2], id="again", target="isle")
    begun: list[Wave] = []
    stream = run_stream(
        "more", [[changed, facts[3], reasked]], parts.store, parts.config, parts, begun.append
    )
    steps = list(stream)
    assert outcome(steps) == [(1, 0, 2, 2)]
    assert [clash.field for clash in steps[0].admission.rejections] == ["id", "prompt"]
    assert [[edit.id for edit in wave.edits] for wave in begun] == [["edit-3"]]
    assert parts.store.ledger.find("edit-1").edit == facts[1]


def test_a_wave_is_announced_before_it_is_planned(parts: LocalParts, facts: list[Edit]) -> None:
    seen: list[list[str]] = []

    def starting(wave: Wave) -> None:
        seen.append(parts.store.storage.names(f"waves/{wave.key}"))

    list(run_stream("news", [facts], parts.store, parts.config, parts, starting))
    list(run_stream("news", [facts], parts.store, parts.config, parts, starting))
    assert seen == [[], []]  # the second run announces nothing


@pytest.mark.parametrize(
    ("method", "change", "is_other"),
    [
        ("scen-lr", {"expert": {"steps": 21}}, True),
        ("scen-lr", {"expert": {"stop_loss": 0.5}}, True),
        ("scen-lr", {"expert": {"other_ways": False}}, True),
        ("scen-lr", {"expert": {"batch_size": 2}, "evaluation": {"batch_size": 2}}, False),
        ("scen-lr", {"router": {"neuron_lr": 0.01}}, False),  # scen-lr fits no neurons
        ("scen", {"expert": {"other_ways": False}}, False),  # scen trains as published
        ("scen", {"router": {"neuron_lr": 0.01}}, True),
        ("scen", {"router": {"neuron_optimizer": "sgd"}}, True),
    ],
)
def test_what_decides_the_experts_is_part_of_the_settings(
    make_parts: MakeParts, method: str, change: dict[str, object], is_other: bool
) -> None:
    parts, changed = make_parts(method), make_parts(method, **change)
    before, after = settings(parts.config, parts.store), settings(changed.config, changed.store)
    assert (before != after) is is_other
    assert before["base"] == parts.store.base.fingerprint
    assert json.loads(json.dumps(before))["method"]["layer"] == 3


def test_of_one_file_the_answer_of_today_and_that_of_a_later_year(
    parts: LocalParts, facts: list[Edit]
) -> None:
    """Each is trained and evaluated without the other; the timer swaps them."""
    later = replace(
        facts[0], id="later", target=facts[1].target, valid_from=datetime(2999, 1, 1, tzinfo=UTC)
    )
    steps = run(parts, [later, facts[0]])
    assert outcome(steps) == [(1, 0, 0, 1), (1, 0, 0, 2)]
    assert [step.report.evaluated["report"]["reliability"] for step in steps if step.report] == [
        1.0,
        1.0,
    ]
    assert outcome(run(parts, [later, facts[0]])) == [(0, 2, 0, None)]

    def answer() -> str:
        return parts.store.at(parts.store.ledger.snapshot()).ask(facts[0].prompt, 12).answer

    assert answer() == facts[0].target
    parts.store.ledger.settle(Expire(datetime(2999, 1, 1, tzinfo=UTC)))
    assert answer() == later.target
    assert parts.store.ledger.snapshot().ids == ["later"]
