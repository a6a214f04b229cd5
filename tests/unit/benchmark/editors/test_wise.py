"""WISE: side memories, their merging and their router."""

import pytest
import torch

from scen.benchmark.editors.in_context import NoEditor
from scen.benchmark.editors.wise import WiseEditor, WiseNeurons, merge_ties
from scen.model.base import Base
from scen.model.batch import pad_prompts
from scen.model.decode import answer
from scen.records import Edit

UNRELATED = ["What is seven times six?", "Tell me a long story about ships.", "ok"]


def quiet(*_: int) -> None:
    pass


def test_ties_keeps_the_largest_changes_and_averages_those_that_agree_in_sign() -> None:
    one = torch.tensor([[4.0, -3.0, 0.1, 0.0]])
    other = torch.tensor([[2.0, 5.0, 0.2, 0.0]])
    merged = merge_ties([one, other], 0.5)
    assert merged.tolist() == [[3.0, 5.0, 0.0, 0.0]]


def test_margins_are_zero_where_they_are_kept() -> None:
    editor = WiseEditor(outside=1.0, inside=4.0, margin=2.0)
    assert float(editor.margins(torch.tensor(4.0), torch.tensor(1.0))) == 0
    assert float(editor.margins(torch.tensor(3.0), torch.tensor(2.0))) == 1 + 1 + 1


def test_a_prompt_that_activates_no_memory_has_the_bits_of_the_base(
    tiny: Base, edits: list[Edit]
) -> None:
    editor = WiseEditor(depth=0.5, lr=0.05, steps=5, shard_size=2)
    edited = editor.edit(tiny, edits, quiet).model(0)
    assert isinstance(edited.neurons, WiseNeurons)
    bare = NoEditor().edit(tiny, edits, quiet).model(0)
    batch = pad_prompts([tiny.template.encode_prompt(text) for text in UNRELATED], tiny.pad_id)
    filled = edited.prefill(batch)
    route = edited.route(filled)
    strict = WiseNeurons(3, edited.neurons.change_MDF, 0 * edited.neurons.threshold_M + 1e9)
    assert strict.route(filled).is_base
    none = [row for row, expert in enumerate(route.expert_B.tolist()) if expert < 0]
    decoded = answer(edited, filled, strict.route(filled), 4, keep_logits=True)
    plain = bare.prefill(batch)
    expected = answer(bare, plain, bare.route(plain), 4, keep_logits=True)
    assert decoded.logits_BSV is not None
    assert expected.logits_BSV is not None
    assert torch.equal(decoded.logits_BSV, expected.logits_BSV)
    assert none == [i for i, score in enumerate(route.score_B) if not _above(edited.neurons, score)]


def _above(neurons: WiseNeurons, score: torch.Tensor) -> bool:
    return bool(score > neurons.threshold_M.min())


def test_shards_change_their_own_weights_and_are_merged_in_pairs(
    tiny: Base, edits: list[Edit]
) -> None:
    """Six edits in shards of two: the first two shards are one memory, the third another."""
    editor = WiseEditor(depth=0.5, lr=0.05, steps=3, shard_size=2, distance=0.01)
    before = {name: p.detach().clone() for name, p in tiny.model.named_parameters()}
    edited = editor.edit(tiny, edits, quiet)
    after = {name.replace(".linear.", "."): p for name, p in tiny.model.named_parameters()}
    assert all(torch.equal(after[name], p) for name, p in before.items())
    neurons = edited.models[0].neurons
    assert isinstance(neurons, WiseNeurons)
    assert len(neurons) == 2
    assert float(neurons.change_MDF.abs().max()) <= 0.01
    assert 0.1 < float((neurons.change_MDF[1] != 0).float().mean()) < 0.3
    assert edited.num_bytes == 2 * 32 * 64 * 4 + 2 * 4


@pytest.mark.slow
def test_an_edit_is_learnt_and_routed(tiny: Base, edits: list[Edit]) -> None:
    editor = WiseEditor(
        depth=0.5, lr=0.05, steps=400, density=1.0, outside=0.5, inside=2.0, margin=1.0
    )
    edited = editor.edit(tiny, edits[:1], quiet).model(0)
    target = tiny.template.encode_edit(edits[0]).target
    batch = pad_prompts([tiny.template.encode_prompt(edits[0].prompt)], tiny.pad_id)
    filled = edited.prefill(batch)
    route = edited.route(filled)
    assert route.expert_B.tolist() == [0]
    assert answer(edited, filled, route, 1).tokens[0] == [target[0]]
