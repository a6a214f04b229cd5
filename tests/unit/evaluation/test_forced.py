"""Teacher-forced accuracy is what one plain forward of the whole model gives, row by row."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from scen.evaluation.run_eval import teacher_forced_accuracy
from scen.method import MethodName
from scen.model.base import Base
from scen.model.batch import pad_prompts
from scen.model.decode import EditedModel, answer
from scen.model.route import Route
from scen.records import EncodedEdit

MakeEdited = Callable[..., EditedModel]

MIXED = [0, -1, 2, -1, 2, 5]  # two rows share an expert, two rows have none
SPANS = [("scen", "all"), ("scen-lr", "last")]


def whole_forward(base: Base, edited: EditedModel, edit: EncodedEdit, expert: int) -> list[bool]:
    """Is each target token, less the end token, the most likely one? One row, no cache."""
    prompt, target = edit.prompt.ids, edit.target[:-1]
    start = len(prompt) - 1 if edited.bank.span == "last" else 0

    def act(_module: object, args: tuple[Tensor], out: Tensor) -> Tensor:
        changed = edited.bank.apply(args[0][:, start:], out[:, start:], torch.tensor([expert]))
        return torch.cat([out[:, :start], changed], 1)

    linear = base.model.model.layers[edited.layer].mlp.down_proj
    handle = linear.register_forward_hook(act) if expert >= 0 else None
    with torch.no_grad():
        logits = base.model(input_ids=torch.tensor([prompt + target])).logits[0]
    if handle is not None:
        handle.remove()
    said = logits[len(prompt) - 1 : -1].argmax(-1).tolist()
    return [token == right for token, right in zip(said, target, strict=True)]


def shares(base: Base, edited: EditedModel, edits: list[EncodedEdit], route: list[int]) -> object:
    """The shares that plain forwards give."""
    rows = [
        whole_forward(base, edited, edit, expert) for edit, expert in zip(edits, route, strict=True)
    ]
    return pytest.approx([sum(row) / len(row) for row in rows], abs=1e-9)


@pytest.mark.parametrize("is_filled", [False, True])
@pytest.mark.parametrize(("method", "span"), SPANS)
def test_it_equals_plain_forwards(
    tiny: Base,
    encoded: list[EncodedEdit],
    make_edited: MakeEdited,
    method: MethodName,
    span: str,
    is_filled: bool,
) -> None:
    edited = make_edited(method)
    assert edited.bank.span == span
    filled = edited.prefill(pad_prompts([e.prompt for e in encoded], tiny.pad_id))
    before, after = teacher_forced_accuracy(
        edited, encoded, Route.fixed(MIXED), filled if is_filled else None
    )
    assert before == shares(tiny, edited, encoded, [-1] * 6)
    assert after == shares(tiny, edited, encoded, MIXED)
    assert [after[row] == before[row] for row in (1, 3)] == [True, True]
    assert after[0] > before[0]  # the experts do speak
    assert after[5] > before[5]
    assert after[4] < after[2]  # row 4 has row 2's expert


@pytest.mark.parametrize("is_filled", [False, True])
@pytest.mark.parametrize("method", ["scen", "scen-lr"])
def test_what_a_row_says_freely_it_says_when_forced(
    tiny: Base,
    encoded: list[EncodedEdit],
    make_edited: MakeEdited,
    method: MethodName,
    is_filled: bool,
) -> None:
    """Every token hangs on those before it, so that an expert must act on just the positions on
    which it acts in decoding."""
    edited = replace(make_edited(method), stop_ids=frozenset({-1}))  # so that it says 24 tokens
    filled = edited.prefill(pad_prompts([e.prompt for e in encoded], tiny.pad_id))
    route = Route.fixed([0, 1, 2, 3, 4, 5])
    said = answer(edited, filled, route, 24).tokens
    probes = [
        EncodedEdit(edit.prompt, (*tokens, tiny.template.end_id), 0)
        for edit, tokens in zip(encoded, said, strict=True)
    ]
    before, after = teacher_forced_accuracy(edited, probes, route, filled if is_filled else None)
    assert after == [1.0] * 6
    assert max(before) < 1


@pytest.mark.parametrize("method", ["scen", "scen-lr"])
def test_without_a_route_nothing_changes(
    encoded: list[EncodedEdit], make_edited: MakeEdited, method: MethodName
) -> None:
    before, after = teacher_forced_accuracy(make_edited(method), encoded, Route.base(6))
    assert before == after


@pytest.mark.parametrize("is_filled", [False, True])
def test_a_prefill_is_left_as_it_is(
    tiny: Base, encoded: list[EncodedEdit], make_edited: MakeEdited, is_filled: bool
) -> None:
    edited = make_edited()
    filled = edited.prefill(pad_prompts([e.prompt for e in encoded], tiny.pad_id))
    keys = [layer.keys.clone() for layer in filled.cache.layers]
    teacher_forced_accuracy(edited, encoded, Route.fixed(MIXED), filled if is_filled else None)
    for layer, before in zip(filled.cache.layers, keys, strict=True):
        assert torch.equal(layer.keys, before)


def test_the_end_token_is_not_counted(
    tiny: Base, encoded: list[EncodedEdit], make_edited: MakeEdited
) -> None:
    """A target that the base says itself has accuracy 1, whatever the base says after it."""
    edited = make_edited()
    prompt = encoded[0].prompt
    with torch.no_grad():
        logits = tiny.model(input_ids=torch.tensor([prompt.ids])).logits[0, -1]
    said, never = int(logits.argmax()), int(logits.argmin())
    told = EncodedEdit(prompt, (said, never), 0)
    wrong = EncodedEdit(prompt, (never, tiny.template.end_id), 0)
    assert teacher_forced_accuracy(edited, [told, wrong], Route.base(2)) == ([1.0, 0.0], [1.0, 0.0])
