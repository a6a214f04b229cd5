"""A prefill with known beginnings gives what one of the whole prompts gives."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from scen.model.base import Base
from scen.model.batch import pad_edits, pad_prompts, shared_beginning
from scen.model.decode import EditedModel, answer, apply_experts, copy_cache
from scen.model.decoder import Pair
from scen.model.expert import LowRankBank
from scen.model.prefill import (
    Prefill,
    Split,
    prefill,
    prefill_keys,
    prefill_prompts,
    split_edits,
)
from scen.model.route import Route, SigmoidNeurons
from scen.records import EncodedEdit, EncodedPrompt

LAYER = 3
KEYS = (1, 4)
SYSTEM = tuple(range(40, 75))
MIXED = [0, -1, 2, -1, 2, 5]


@pytest.fixture
def prompts(encoded: list[EncodedEdit]) -> list[EncodedPrompt]:
    """Six prompts of unequal length: three of them behind 35 tokens that are not the user's."""
    found = [edit.prompt for edit in encoded]
    for row in (0, 1, 4):
        begin, end = found[row].own
        found[row] = EncodedPrompt(SYSTEM + found[row].ids, (begin + 35, end + 35))
    return found


@pytest.fixture
def whole(tiny: Base, prompts: list[EncodedPrompt]) -> Prefill:
    """All six, all of them run."""
    return prefill(tiny.model, pad_prompts(prompts, tiny.pad_id), LAYER, KEYS)


@pytest.fixture
def edited(tiny: Base) -> EditedModel:
    """The tiny base with six strong experts that nobody trained, and no stop token."""
    draw = torch.Generator().manual_seed(0)
    bank = LowRankBank(torch.randn(6, 4, 64, generator=draw), torch.randn(6, 32, 4, generator=draw))
    neurons = SigmoidNeurons(LAYER, torch.zeros(0, 64), 0.5)
    return EditedModel(tiny.model, LAYER, bank, neurons, tiny.pad_id, frozenset())


def known(filled: Prefill, width: int) -> list[Pair]:
    """What a prefill knows of its first positions."""
    return [(kv.keys[:, :, :width], kv.values[:, :, :width]) for kv in filled.cache.layers]


def last_own(filled: Prefill) -> int:
    """The first position at which any row has words of the user."""
    return int(filled.batch.user_mask_BP.any(0).nonzero()[0])


def assert_near(ours: Tensor, theirs: Tensor) -> None:
    """Equal but for the last bits."""
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize("width", [1, 7, None])
def test_known_positions_are_not_run_and_change_nothing(
    tiny: Base, whole: Prefill, width: int | None
) -> None:
    width = last_own(whole) if width is None else width
    part = prefill(tiny.model, whole.batch, LAYER, KEYS, known(whole, width))
    positions = whole.batch.ids_BP.shape[1]
    assert (whole.num_known, part.num_known) == (0, width)
    assert part.y_BSD.shape[1] == part.inputs[1].shape[1] == positions - width
    assert_near(part.logits_BV, whole.logits_BV)
    is_real_BP = whole.batch.mask_BP
    for ours, theirs in zip(part.cache.layers, whole.cache.layers, strict=True):
        for one, other in ((ours.keys, theirs.keys), (ours.values, theirs.values)):
            assert one.shape == other.shape
            assert_near(one.transpose(1, 2)[is_real_BP], other.transpose(1, 2)[is_real_BP])
    for layer in KEYS:
        assert_near(part.last(layer), whole.last(layer))
        assert_near(part.mean(layer), whole.mean(layer))


def test_answers_go_on_from_known_positions(
    tiny: Base, edited: EditedModel, whole: Prefill
) -> None:
    part = prefill(tiny.model, whole.batch, LAYER, KEYS, known(whole, last_own(whole)))
    for route in (Route.fixed(MIXED), Route.fixed([-1] * 6)):
        assert answer(edited, part, route, 12).tokens == answer(edited, whole, route, 12).tokens


def test_with_the_same_beginnings_unrouted_rows_are_the_same_bit_for_bit(
    tiny: Base, edited: EditedModel, whole: Prefill
) -> None:
    beginnings = known(whole, last_own(whole))
    base = prefill(tiny.model, whole.batch, LAYER, KEYS, beginnings).logits_BV
    filled = prefill(tiny.model, whole.batch, LAYER, KEYS, beginnings)
    logits_BV = apply_experts(edited, filled, Route.fixed(MIXED), copy_cache(filled.cache))
    assert torch.equal(logits_BV[[1, 3]], base[[1, 3]])
    assert not torch.equal(logits_BV[[0, 2]], base[[0, 2]])


def test_what_was_not_run_cannot_be_run_again(tiny: Base, whole: Prefill) -> None:
    part = prefill(tiny.model, whole.batch, LAYER, KEYS, known(whole, 7))
    rows = torch.tensor([0, 2])
    last = whole.batch.ids_BP.shape[1] - 1
    assert torch.equal(part.split(rows, last).x_BSF, part.inputs[LAYER][rows, -1:])
    assert part.split(rows, 7).x_BSF.shape[1] == last - 6
    with pytest.raises(AssertionError):
        part.split(rows, 6)


@pytest.mark.parametrize("layers", [(1, 4), (2,), (5,)])
def test_keys_need_no_layer_above_the_deepest(
    tiny: Base, prompts: list[EncodedPrompt], layers: tuple[int, ...]
) -> None:
    batch = pad_prompts(prompts, tiny.pad_id)
    whole = prefill(tiny.model, batch, layers[0], layers)
    run: list[int] = []
    for index, block in enumerate(tiny.model.model.layers):
        block.register_forward_hook(lambda *_, index=index: run.append(index))
    keys = prefill_keys(tiny.model, prompts, tiny.pad_id, layers)
    assert run == list(range(layers[-1] + 1))
    for layer in layers:
        assert torch.equal(keys.inputs[layer], whole.inputs[layer])
        assert torch.equal(keys.spans(layer), whole.spans(layer))
    run.clear()
    prefill(tiny.model, batch, layers[0], layers)
    assert run == list(range(6))


@pytest.fixture
def behind_one(encoded: list[EncodedEdit]) -> list[EncodedPrompt]:
    """Six prompts of unequal length behind the same 35 tokens."""
    own = ((edit.prompt, *edit.prompt.own) for edit in encoded)
    return [EncodedPrompt(SYSTEM + p.ids, (begin + 35, end + 35)) for p, begin, end in own]


def test_a_common_beginning_is_run_once_and_changes_nothing(
    tiny: Base, behind_one: list[EncodedPrompt]
) -> None:
    whole = prefill(tiny.model, pad_prompts(behind_one, tiny.pad_id), LAYER, KEYS)
    sizes: list[tuple[int, ...]] = []
    tiny.model.model.register_forward_pre_hook(
        lambda _, __, given: sizes.append(tuple(given["input_ids"].shape)), with_kwargs=True
    )
    part = prefill_prompts(tiny.model, behind_one, tiny.pad_id, LAYER, KEYS)
    shared, positions = part.batch.shared, whole.batch.ids_BP.shape[1]
    assert shared >= 35
    assert sizes == [(1, shared), (6, positions - shared)]
    assert torch.equal(part.batch.positions_BP[:, -1], whole.batch.positions_BP[:, -1])
    for layer in KEYS:
        assert_near(part.last(layer), whole.last(layer))
        assert_near(part.mean(layer), whole.mean(layer))
    for ours, theirs in zip(part.cache.layers, whole.cache.layers, strict=True):
        assert_near(
            ours.keys.transpose(1, 2)[part.batch.mask_BP],
            theirs.keys.transpose(1, 2)[whole.batch.mask_BP],
        )


def test_what_is_common_ends_before_the_users_words(behind_one: list[EncodedPrompt]) -> None:
    same = [behind_one[0], behind_one[0]]
    assert shared_beginning(same) == behind_one[0].own[0]
    assert shared_beginning(same[:1]) == 0
    unlike = EncodedPrompt((1, *behind_one[0].ids[1:]), behind_one[0].own)
    assert shared_beginning([same[0], unlike]) == 0
    assert shared_beginning([replace(prompt, own=(0, 2)) for prompt in same]) == 0


def test_a_beginning_is_not_shared_where_a_window_would_cut_it(
    tiny: Base, behind_one: list[EncodedPrompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    width = max(len(prompt.ids) for prompt in behind_one)
    for window, is_shared in ((2 * width, True), (2 * width - 1, False)):
        monkeypatch.setattr(tiny.model.config, "sliding_window", window, raising=False)
        filled = prefill_prompts(tiny.model, behind_one, tiny.pad_id, LAYER, KEYS)
        assert (filled.batch.shared > 0) is is_shared


def test_splits_in_several_widths_are_joined(
    tiny: Base, encoded: list[EncodedEdit], behind_one: list[EncodedPrompt]
) -> None:
    """The joined rows give what each part gives by itself."""

    def split_of(edits: Sequence[EncodedEdit]) -> Split:
        filled = prefill_prompts(tiny.model, [e.prompt for e in edits], tiny.pad_id, LAYER)
        batch = pad_edits(edits, tiny.pad_id, "cpu", filled.batch.shared)
        return split_edits(tiny.model, LAYER, batch, filled.cache)

    parts = [
        split_of(encoded),
        split_of([replace(e, prompt=p) for e, p in zip(encoded, behind_one, strict=True)]),
    ]
    joined = Split.join(parts)
    above = joined.above(tiny.model, LAYER, joined.y_BSD)
    alone = [part.above(tiny.model, LAYER, part.y_BSD) for part in parts]
    assert_near(above, torch.cat(alone))
    assert not torch.allclose(alone[0], alone[1], atol=1e-2)
