"""Batch equals one by one; unrouted rows are the base bit for bit; nothing outlives a call."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from scen.method import MethodName
from scen.model.base import Base
from scen.model.batch import PromptBatch, cache_argument, pad_prompts
from scen.model.decode import EditedModel, answer, apply_experts, copy_cache, decode
from scen.model.expert import EditedLinear, Span, detach_layer
from scen.model.route import Route, SigmoidNeurons
from scen.records import EncodedEdit, EncodedPrompt
from scen.training.experts import ExpertPlan, fit_experts

LAYER = 3
NEW = 12
MIXED = [0, -1, 2, -1, 2, 5]  # two rows share an expert, two rows have none


fixed = Route.fixed


def edited_model(base: Base, encoded: list[EncodedEdit], method: MethodName) -> EditedModel:
    plan = ExpertPlan(method, LAYER, steps=15, lr=5e-2 if method == "scen-lr" else 5e-3)
    bank = fit_experts(base.model, plan, encoded, base.pad_id).bank
    neurons = SigmoidNeurons(LAYER, torch.zeros(0, 64), 0.5)
    return EditedModel(base.model, LAYER, bank, neurons, base.pad_id, base.stop_ids)


@pytest.mark.parametrize("method", ["scen", "scen-lr"])
def test_a_mixed_batch_says_what_each_row_says_alone(
    tiny: Base, encoded: list[EncodedEdit], method: MethodName
) -> None:
    edited = edited_model(tiny, encoded, method)
    prompts = [e.prompt for e in encoded]
    together = decode(edited, pad_prompts(prompts, tiny.pad_id), NEW, fixed(MIXED))
    plain = decode(edited, pad_prompts(prompts, tiny.pad_id), NEW, fixed([-1] * 6))
    for i, prompt in enumerate(prompts):
        batch = pad_prompts([prompt], tiny.pad_id)
        alone = decode(edited, batch, NEW, fixed([MIXED[i]]))
        assert alone.tokens[0] == together.tokens[i]
    assert together.tokens[0] != plain.tokens[0]  # the experts do speak
    assert together.tokens[2] != plain.tokens[2]


@pytest.mark.parametrize("method", ["scen", "scen-lr"])
def test_behind_a_common_beginning_answers_are_the_same(
    tiny: Base, encoded: list[EncodedEdit], method: MethodName
) -> None:
    """It is run once where experts act at the last prompt token only."""
    system = tuple(range(40, 75))
    own = [(edit.prompt.own[0] + 35, edit.prompt.own[1] + 35) for edit in encoded]
    edits = [
        replace(edit, prompt=EncodedPrompt(system + edit.prompt.ids, span))
        for edit, span in zip(encoded, own, strict=True)
    ]
    edited = edited_model(tiny, edits, method)
    prompts = [edit.prompt for edit in edits]
    filled = edited.prefill_prompts(prompts)
    whole = edited.prefill(pad_prompts(prompts, tiny.pad_id))
    assert whole.num_known == 0
    assert (filled.num_known >= 35) is (method == "scen-lr")
    shared = answer(edited, filled, fixed(MIXED), NEW, keep_logits=True)
    plain = answer(edited, filled, fixed([-1] * 6), NEW, keep_logits=True)
    assert shared.tokens == answer(edited, whole, fixed(MIXED), NEW).tokens
    assert shared.logits_BSV is not None
    assert plain.logits_BSV is not None
    assert torch.equal(shared.logits_BSV[[1, 3], :1], plain.logits_BSV[[1, 3], :1])
    assert shared.tokens[0] != plain.tokens[0]


def plain_logits(base: Base, batch: PromptBatch, tokens: Tensor) -> Tensor:
    """logits_BSV of the untouched base while it is fed these tokens: plain transformers calls."""
    cache, mask = DynamicCache(), batch.mask_BP.long()
    kept = []
    for step in range(tokens.shape[1]):
        ids = tokens[:, step - 1 : step] if step else batch.ids_BP
        where = (batch.mask_BP.sum(1) + step - 1)[:, None] if step else batch.positions_BP
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1) if step else mask
        with torch.no_grad():
            h = base.model.model(
                input_ids=ids, attention_mask=mask, position_ids=where, **cache_argument(cache)
            ).last_hidden_state
            kept.append(base.model.lm_head(h[:, -1].contiguous()))
    return torch.stack(kept, 1)


@pytest.mark.parametrize("method", ["scen", "scen-lr"])
def test_unrouted_rows_are_bit_identical_to_the_plain_base(
    tiny: Base, encoded: list[EncodedEdit], method: MethodName
) -> None:
    """The witness is the base before anything is attached, on the same weights in memory: a second
    copy may lie at another alignment, for which the matrix kernels round differently."""
    batch = pad_prompts([e.prompt for e in encoded], tiny.pad_id)
    told = tiny.model.generate(
        input_ids=batch.ids_BP,
        attention_mask=batch.mask_BP.long(),
        max_new_tokens=NEW,
        do_sample=False,
    )[:, batch.ids_BP.shape[1] :]
    witness = plain_logits(tiny, batch, told)
    assert not any(isinstance(module, EditedLinear) for module in tiny.model.modules())
    edited = edited_model(tiny, encoded, method)
    mixed = answer(edited, edited.prefill(batch), fixed(MIXED), NEW, keep_logits=True)
    assert mixed.logits_BSV is not None
    for row in (1, 3):
        spoken = len(mixed.tokens[row])
        assert spoken > 0
        assert told[row, :spoken].tolist() == mixed.tokens[row]
        steps = min(spoken + 1, witness.shape[1], mixed.logits_BSV.shape[1])
        assert torch.equal(mixed.logits_BSV[row, :steps], witness[row, :steps])


@pytest.mark.parametrize(("method", "span"), [("scen", "all"), ("scen-lr", "last")])
def test_after_prefill_routing_equals_one_pass_with_the_expert(
    tiny: Base, encoded: list[EncodedEdit], method: MethodName, span: Span
) -> None:
    """The logits after the prompt equal those of a whole pass in which the expert acts."""
    edited = edited_model(tiny, encoded, method)
    assert edited.bank.span == span
    prompt = pad_prompts([encoded[0].prompt], tiny.pad_id)
    shown = answer(edited, edited.prefill(prompt), fixed([0]), 1, keep_logits=True)
    route = Route.fixed([0])
    linear = tiny.model.model.layers[LAYER].mlp.down_proj

    def acts(_module: object, args: tuple[torch.Tensor], out: torch.Tensor) -> torch.Tensor:
        start = prompt.ids_BP.shape[1] - 1 if span == "last" else 0
        x, y = args[0][:, start:], out[:, start:]
        return torch.cat([out[:, :start], edited.bank.apply(x, y, route.expert_B)], 1)

    handle = linear.register_forward_hook(acts)
    with torch.no_grad():
        whole = tiny.model(input_ids=prompt.ids_BP).logits[0, -1]
    handle.remove()
    assert shown.logits_BSV is not None
    torch.testing.assert_close(shown.logits_BSV[0, 0], whole, rtol=0, atol=1e-4)


def test_prompt_cache_but_its_last_token_does_not_depend_on_edits(
    tiny: Base, encoded: list[EncodedEdit]
) -> None:
    edited = edited_model(tiny, encoded, "scen-lr")
    batch = pad_prompts([e.prompt for e in encoded], tiny.pad_id)
    filled = edited.prefill(batch)
    plain, routed = copy_cache(filled.cache), copy_cache(filled.cache)
    apply_experts(edited, filled, fixed([-1] * 6), plain)
    apply_experts(edited, filled, fixed([0, 1, 2, 3, 4, 5]), routed)
    last = batch.ids_BP.shape[1] - 1
    for before, after in zip(plain.layers, routed.layers, strict=True):
        assert torch.equal(before.keys[:, :, :last], after.keys[:, :, :last])
        assert torch.equal(before.values[:, :, :last], after.values[:, :, :last])
    assert not torch.equal(plain.layers[-1].keys[:, :, last], routed.layers[-1].keys[:, :, last])


def test_no_route_outlives_a_call(tiny: Base, encoded: list[EncodedEdit]) -> None:
    batch = pad_prompts([e.prompt for e in encoded], tiny.pad_id)
    ids = {"input_ids": batch.ids_BP, "attention_mask": batch.mask_BP.long()}
    with torch.no_grad():
        before = tiny.model(**ids).logits
    edited = edited_model(tiny, encoded, "scen")
    decode(edited, batch, NEW, fixed([0, 1, 2, 3, 4, 5]))
    with torch.no_grad():
        assert torch.equal(tiny.model(**ids).logits, before)
    detach_layer(tiny.model, LAYER)
    assert not any(isinstance(module, EditedLinear) for module in tiny.model.modules())


def test_a_route_is_dropped_when_decoding_fails(tiny: Base, encoded: list[EncodedEdit]) -> None:
    edited = edited_model(tiny, encoded, "scen-lr")
    linear = edited.linear
    x = torch.randn(1, 2, 64)
    with pytest.raises(RuntimeError), linear.use(edited.bank, Route.fixed([0])):
        raise RuntimeError
    assert torch.equal(linear(x), linear.linear(x))
