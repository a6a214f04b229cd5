"""Rows that come and go say what they say in a batch that stays."""

import pytest
import torch

from scen.model.base import Base
from scen.model.batch import pad_prompts
from scen.model.decode import EditedModel, answer, apply_experts, copy_cache
from scen.model.expert import LowRankBank
from scen.model.route import Route, SigmoidNeurons
from scen.model.step import BLOCK, RowCache, step_rows
from scen.records import EncodedEdit

LAYER = 3
NEW = 2 * BLOCK
MIXED = [0, -1, 2, -1, 2, 5]  # two rows share an expert, two rows have none


@pytest.fixture
def edited(tiny: Base) -> EditedModel:
    """The tiny base with six strong experts that nobody trained, and no stop token."""
    draw = torch.Generator().manual_seed(0)
    bank = LowRankBank(torch.randn(6, 4, 64, generator=draw), torch.randn(6, 32, 4, generator=draw))
    neurons = SigmoidNeurons(LAYER, torch.zeros(0, 64), 0.5)
    return EditedModel(tiny.model, LAYER, bank, neurons, tiny.pad_id, frozenset())


def test_rows_of_unequal_length_that_join_and_leave(
    edited: EditedModel, encoded: list[EncodedEdit], tiny: Base
) -> None:
    batch = pad_prompts([e.prompt for e in encoded], tiny.pad_id)
    route = Route.fixed(MIXED)
    filled = edited.prefill(batch)
    witness = answer(edited, filled, route, NEW).tokens
    filled_cache = copy_cache(filled.cache)
    first_B = apply_experts(edited, filled, route, filled_cache).argmax(-1).tolist()
    cache = RowCache(capacity=4)
    rows: list[int] = []  # which prompt each row of the cache answers
    told = {i: [first_B[i]] for i in range(6)}
    waiting = list(range(6))
    while waiting or rows:
        if waiting and len(rows) < 4:
            prompt = waiting.pop(0)
            cache.join(filled_cache, prompt, len(encoded[prompt].prompt.ids))
            rows.append(prompt)
        token_B = torch.tensor([told[i][-1] for i in rows])
        logits_BV = step_rows(edited, cache, token_B, route.take(torch.tensor(rows)))
        for i, token in zip(rows, logits_BV.argmax(-1).tolist(), strict=True):
            told[i].append(token)
        for row in reversed(range(len(rows))):
            if len(told[rows[row]]) == NEW - 7 * rows[row]:  # each ends at its own time
                cache.leave(row)
                rows[row] = rows[-1]
                rows.pop()
    assert [told[i] for i in range(6)] == [witness[i][: NEW - 7 * i] for i in range(6)]
    assert cache.num_bytes == 0


def test_unrouted_rows_are_the_base_bit_for_bit(
    edited: EditedModel, encoded: list[EncodedEdit], tiny: Base
) -> None:
    filled = edited.prefill(pad_prompts([e.prompt for e in encoded], tiny.pad_id))
    logits = []
    for route in (Route.fixed(MIXED), Route.base(6)):
        cache = RowCache(6)
        for row, edit in enumerate(encoded):
            cache.join(filled.cache, row, len(edit.prompt.ids))
        token_B = filled.logits_BV.argmax(-1)
        logits.append(step_rows(edited, cache, token_B, route))
    unrouted = [i for i, expert in enumerate(MIXED) if expert < 0]
    assert torch.equal(logits[0][unrouted], logits[1][unrouted])
    assert not torch.equal(logits[0][0], logits[1][0])


def test_a_full_cache_takes_no_more(
    edited: EditedModel, encoded: list[EncodedEdit], tiny: Base
) -> None:
    filled = edited.prefill(pad_prompts([e.prompt for e in encoded], tiny.pad_id))
    cache = RowCache(1)
    cache.join(filled.cache, 0, 3)
    with pytest.raises(RuntimeError, match="no more than 1 rows"):
        cache.join(filled.cache, 1, 3)
