"""A prefill with known beginnings gives what one of the whole prompts gives."""

import pytest
import torch
from torch import Tensor

from scen.model.base import Base
from scen.model.batch import pad_prompts
from scen.model.decode import EditedModel, answer, apply_experts, copy_cache
from scen.model.decoder import Pair
from scen.model.expert import LowRankBank
from scen.model.prefill import Prefill, prefill, prefill_keys
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
    keys = prefill_keys(tiny.model, batch, layers)
    assert run == list(range(layers[-1] + 1))
    for layer in layers:
        assert torch.equal(keys.inputs[layer], whole.inputs[layer])
        assert torch.equal(keys.spans(layer), whole.spans(layer))
    run.clear()
    prefill(tiny.model, batch, layers[0], layers)
    assert run == list(range(6))
