"""Batches are a matter of speed: each probe has its own outcome, in its own place."""

import time
from collections.abc import Callable

import pytest
from torch import Tensor

from scen.evaluation.metrics import Outcome
from scen.evaluation.probes import Probe, edit_probes, locality_probes
from scen.evaluation.run_eval import EvalLimits, measure_batch, run_eval
from scen.model.base import Base
from scen.model.batch import pad_prompts
from scen.model.decode import EditedModel, decode
from scen.model.expert import EditedLinear
from scen.model.route import Route
from scen.records import Edit

MakeEdited = Callable[..., EditedModel]

LOCALITY = ["Where is it?", "Who was here before them, and who will be here after?", "Why?"]
LIMITS = EvalLimits(batch_size=4, max_new_tokens=20, locality_tokens=6)


@pytest.fixture
def probes(edits: list[Edit]) -> list[Probe]:
    """Probes of all kinds, mixed up."""
    found = [*edit_probes(edits), *locality_probes(LOCALITY)]
    return found[1::2] + found[::2]


def told(base: Base, edited: EditedModel, prompt: str, route: Route | None, limit: int) -> str:
    """The answer to one prompt, decoded alone."""
    batch = pad_prompts([base.template.encode_prompt(prompt)], base.pad_id)
    return base.template.decode(decode(edited, batch, limit, route).tokens[0])


def plain(outcomes: list[Outcome]) -> list[tuple[object, ...]]:
    """What of outcomes must not depend on the batches, not even by rounding."""
    return [(o.probe, o.before, o.after, o.routed_to, o.nearest, o.identical) for o in outcomes]


def test_each_probe_has_the_outcome_that_it_has_alone(
    tiny: Base, make_edited: MakeEdited, edits: list[Edit], probes: list[Probe]
) -> None:
    edited, ids = make_edited(), [edit.id for edit in edits]
    outcomes = run_eval(tiny, edited, ids, probes, LIMITS)
    assert [outcome.probe for outcome in outcomes] == probes
    for outcome in outcomes:
        probe = outcome.probe
        limit = LIMITS.locality_tokens
        if probe.target is not None:
            limit = min(20, len(tiny.template.encode_target(probe.target)) + 8)
        assert outcome.before == told(tiny, edited, probe.prompt, Route.base(1), limit)
        assert outcome.after == told(tiny, edited, probe.prompt, None, limit)
        if probe.kind == "reliability":
            assert (outcome.routed_to, outcome.nearest) == (probe.edit_id, probe.edit_id)
            assert outcome.score == pytest.approx(1, abs=0.01)  # keys are kept in 8 bits
    alone = [run_eval(tiny, edited, ids, [probe], LIMITS)[0] for probe in probes]
    assert plain(alone) == plain(outcomes)
    for one, other in zip(alone, outcomes, strict=True):
        assert one.forced_before == other.forced_before
        assert one.forced_after == other.forced_after


def test_unrouted_prompts_keep_every_bit(
    tiny: Base, make_edited: MakeEdited, edits: list[Edit], probes: list[Probe]
) -> None:
    outcomes = run_eval(tiny, make_edited(), [edit.id for edit in edits], probes, LIMITS)
    others = [o for o in outcomes if o.probe.target is None]
    unrouted = [o for o in others if o.routed_to is None]
    assert len(unrouted) >= 3
    assert all(o.identical for o in unrouted)
    assert all(o.before == o.after for o in unrouted)
    assert all(o.identical is None for o in outcomes if o.probe.target is not None)


def test_a_prompt_that_an_expert_answers_is_not_identical(
    tiny: Base, make_edited: MakeEdited, edits: list[Edit]
) -> None:
    """Also where the words are the same: what is compared are the logits."""
    edited, probe = make_edited(), Probe("locality", edits[0].prompt, "file")
    [outcome] = run_eval(tiny, edited, [edit.id for edit in edits], [probe], LIMITS)
    assert (outcome.routed_to, outcome.identical) == ("edit-0", False)
    tensors = edited.bank.tensors()
    for tensor in tensors.values():
        tensor.mul_(1e-3)  # so weak that it changes logits and no word
    [outcome] = run_eval(tiny, edited, [edit.id for edit in edits], [probe], LIMITS)
    assert (outcome.before == outcome.after, outcome.identical) == (True, False)


def test_a_base_that_does_change_is_found_out(
    tiny: Base, make_edited: MakeEdited, edits: list[Edit]
) -> None:
    """The witness must be able to fail: here something leaks into rows that have no expert."""
    edited, calls = make_edited(threshold=2.0), 0

    def leak(module: EditedLinear, _args: object, out: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return out + 1e-3 * calls

    handle = edited.linear.register_forward_hook(leak)
    outcomes = run_eval(
        tiny, edited, [edit.id for edit in edits], locality_probes(LOCALITY), LIMITS
    )
    handle.remove()
    assert {(o.routed_to, o.identical) for o in outcomes} == {(None, False)}


def test_teacher_forcing_is_for_probes_with_a_target(
    tiny: Base, make_edited: MakeEdited, edits: list[Edit], probes: list[Probe]
) -> None:
    for outcome in run_eval(tiny, make_edited(), [e.id for e in edits], probes, LIMITS):
        has_target = outcome.probe.target is not None
        assert (outcome.forced_before is not None) is has_target
        assert (outcome.forced_after is not None) is has_target


def test_answers_are_cut_at_their_own_limit(
    tiny: Base, make_edited: MakeEdited, edits: list[Edit]
) -> None:
    """A locality answer is not lengthened by a long target in its batch, nor its logits."""
    edited = make_edited()
    limits = EvalLimits(batch_size=64, max_new_tokens=20, locality_tokens=1)
    probes = [*edit_probes(edits), *locality_probes([edits[0].prompt])]
    last = run_eval(tiny, edited, [edit.id for edit in edits], probes, limits)[-1]
    assert last.before == told(tiny, edited, edits[0].prompt, Route.base(1), 1)
    assert last.after == told(tiny, edited, edits[0].prompt, None, 1) == edits[0].target[0]


def test_progress_counts_probes(
    tiny: Base, make_edited: MakeEdited, edits: list[Edit], probes: list[Probe]
) -> None:
    told: list[int] = []
    run_eval(tiny, make_edited(), [e.id for e in edits], probes, LIMITS, told.append)
    assert (sum(told), max(told)) == (len(probes), 4)
    assert run_eval(tiny, make_edited(), [], [], LIMITS) == []


def test_a_batch_is_timed(
    tiny: Base, make_edited: MakeEdited, edits: list[Edit], probes: list[Probe]
) -> None:
    edited, ids = make_edited(), [edit.id for edit in edits]
    began = time.perf_counter()
    measured = measure_batch(tiny, edited, ids, probes[:3], LIMITS)
    assert measured.time.seconds <= time.perf_counter() - began
    assert measured.outcomes == run_eval(tiny, edited, ids, probes[:3], LIMITS)
    assert measured.time.prompts == 3
    assert 0 < measured.time.answer_seconds < measured.time.seconds
