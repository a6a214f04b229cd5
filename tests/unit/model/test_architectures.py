"""Bases of other architectures: unrouted prompts keep their bits, experts learn and are served.

Attention windows of 8 tokens are shorter than every prompt; norms and biases are random.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache

from conftest import write_tiny_base
from scen.errors import BaseError, ConfigError
from scen.model.base import Base, load_base
from scen.model.batch import PromptBatch, cache_argument, pad_prompts
from scen.model.decode import EditedModel, answer, apply_experts, copy_cache
from scen.model.decoder import TESTED, check_parts, run_head, run_lm_head
from scen.model.expert import FullBank, LowRankBank, detach_layer
from scen.model.prefill import prefill
from scen.model.reference import train_expert
from scen.model.route import Route, SigmoidNeurons
from scen.model.step import RowCache, step_rows
from scen.pipeline.adapters import adapter_config
from scen.records import Edit, EncodedPrompt
from scen.training.experts import ExpertPlan, fit_experts

LAYER, STEPS = 3, 4
QUESTIONS = ["Who founded amber and birch?", "Where is fjord?", "Is heath older than the jetty?"]
ROUTE = Route.fixed([0, -1, 1])
KINDS: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2},
    "qwen3": {"head_dim": 8},
    "mistral": {"sliding_window": 8},
    "phi3": {"sliding_window": 8},
    "gemma": {"head_dim": 8},
    "gemma2": {"head_dim": 8, "sliding_window": 8, "query_pre_attn_scalar": 8},
    "gemma3_text": {"head_dim": 8, "sliding_window": 8, "query_pre_attn_scalar": 8},
    "granite": {"embedding_multiplier": 3.0, "residual_multiplier": 0.5, "logits_scaling": 0.5},
    "olmo2": {},
    "smollm3": {},
    "cohere": {"logit_scale": 2.0},
    "cohere2": {"sliding_window": 8, "logit_scale": 2.0},
}


@pytest.fixture(scope="module", params=KINDS)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Base:
    folder = tmp_path_factory.mktemp(request.param)
    write_tiny_base(folder, kind=request.param, **KINDS[request.param])
    base = load_base(str(folder), template="llama2-inst", dtype="float32", device="cpu")
    torch.manual_seed(1)
    for name, weight in base.model.named_parameters():
        if weight.ndim == 1:
            weight += 0.1 * torch.randn_like(weight)
        if f"{LAYER}.post_feedforward_layernorm" in name:  # which bounds what an expert adds
            weight += 16
    base.model.get_input_embeddings().weight[2] = 0.3 * torch.randn(32)  # zeros, as of padding
    return base


@pytest.fixture
def prompts(base: Base) -> list[EncodedPrompt]:
    return [base.template.encode_prompt(question) for question in QUESTIONS]


@pytest.fixture
def edited(base: Base) -> Iterator[EditedModel]:
    wide, narrow = base.config.intermediate_size, base.config.hidden_size
    torch.manual_seed(2)
    bank = LowRankBank(torch.randn(2, 4, wide), torch.randn(2, narrow, 4))
    nobody = SigmoidNeurons(LAYER, torch.zeros(0, wide), 1.0)
    yield EditedModel(base.model, LAYER, bank, nobody, base.pad_id, frozenset())
    detach_layer(base.model, LAYER)


@torch.no_grad()
def whole_passes(model: Any, batch: PromptBatch) -> Tensor:
    """logits_BSV by the model's own forward passes. The head of the first, which is over all
    prompt tokens there, is over the last ones here: its products round by their shape."""
    cache, mask, positions = DynamicCache(), batch.mask_BP.long(), batch.positions_BP
    given = {"attention_mask": mask, "position_ids": positions}
    h_BPD = model.model(input_ids=batch.ids_BP, **cache_argument(cache), **given).last_hidden_state
    steps = [run_lm_head(model, h_BPD[:, -1])]
    whole_BPV = model(input_ids=batch.ids_BP, **given).logits
    tolerance = 1e-5 if h_BPD.dtype == torch.float32 else 2e-2
    torch.testing.assert_close(steps[0], whole_BPV[:, -1], rtol=tolerance, atol=tolerance)
    while len(steps) < STEPS:
        ids, positions = steps[-1].argmax(-1)[:, None], positions[:, -1:] + 1
        mask = torch.cat([mask, torch.ones_like(ids)], 1)
        given = {"attention_mask": mask, "position_ids": positions}
        steps.append(model(input_ids=ids, **cache_argument(cache), **given).logits[:, -1])
    return torch.stack(steps, 1)


@torch.no_grad()
def one_pass(edited: EditedModel, prompt: EncodedPrompt, expert: int, more: Tensor) -> Tensor:
    """logits_SV by one pass without a cache, the expert added by a hook."""
    last = len(prompt.ids) - 1

    def add(_module: Any, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
        x, y = args[0][:, last:], out[:, last:]
        return torch.cat([out[:, :last], edited.bank.apply(x, y, torch.tensor([expert]))], 1)

    handle = edited.linear.linear.register_forward_hook(add)
    try:
        ids = torch.tensor([[*prompt.ids, *more.tolist()]])
        logits_SV: Tensor = edited.model(input_ids=ids, use_cache=False).logits[0, last:-1]
        return logits_SV
    finally:
        handle.remove()


def logits(edited: EditedModel, batch: PromptBatch, route: Route) -> Tensor:
    """logits_BSV of an answer under a route."""
    logits_BSV = answer(edited, edited.prefill(batch), route, STEPS, keep_logits=True).logits_BSV
    assert logits_BSV is not None
    return logits_BSV


def test_every_tested_architecture_is_here() -> None:
    assert set(KINDS) == TESTED


def test_rows_are_the_base_bit_for_bit_or_a_whole_pass_with_the_expert(
    edited: EditedModel, prompts: list[EncodedPrompt]
) -> None:
    batch = pad_prompts(prompts, edited.pad_id)
    expected = whole_passes(edited.model, batch)
    assert torch.equal(logits(edited, batch, Route.base(3)), expected)
    routed = logits(edited, batch, ROUTE)
    assert torch.equal(routed[1], expected[1])
    for row, expert in ((0, 0), (2, 1)):
        whole = one_pass(edited, prompts[row], expert, routed[row].argmax(-1))
        torch.testing.assert_close(routed[row], whole, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(routed[row], expected[row], rtol=1e-2, atol=1e-2)


def test_rows_of_a_running_batch_and_known_prefixes_give_the_same(
    edited: EditedModel, prompts: list[EncodedPrompt]
) -> None:
    batch = pad_prompts(prompts, edited.pad_id)
    expected = logits(edited, batch, ROUTE)
    filled = edited.prefill(batch)
    known = [(layer.keys[:, :, :9], layer.values[:, :, :9]) for layer in filled.cache.layers]
    again = prefill(edited.model, batch, LAYER, (), known)
    torch.testing.assert_close(again.logits_BV, filled.logits_BV, rtol=1e-4, atol=1e-4)
    cache, rows = copy_cache(again.cache), RowCache(3)
    step_BV = apply_experts(edited, again, ROUTE, cache)
    for index, prompt in enumerate(prompts):
        rows.join(cache, index, len(prompt.ids))
    for step in range(STEPS):
        torch.testing.assert_close(step_BV, expected[:, step], rtol=1e-4, atol=1e-4)
        step_BV = step_rows(edited, rows, expected[:, step].argmax(-1), ROUTE)


def test_an_edit_is_learned(base: Base) -> None:
    edit = base.template.encode_edit(Edit("a", QUESTIONS[0], "dune"))
    plan = ExpertPlan("scen-lr", LAYER, steps=60, lr=5e-2, stop_loss=0.003)
    fitted = fit_experts(base.model, plan, [edit], base.pad_id)
    nobody = SigmoidNeurons(LAYER, torch.zeros(0, base.config.intermediate_size), 1.0)
    edited = EditedModel(base.model, LAYER, fitted.bank, nobody, base.pad_id, base.stop_ids)
    batch = pad_prompts([edit.prompt], base.pad_id)
    decoded = answer(edited, edited.prefill(batch), Route.fixed([0]), 8)
    detach_layer(base.model, LAYER)
    assert fitted.losses[0][-1] < fitted.losses[0][0] / 20
    assert base.template.decode(decoded.tokens[0]) == "dune"


def test_paper_mode_is_the_published_procedure(base: Base) -> None:
    edits = [base.template.encode_edit(Edit(str(i), q, "dune")) for i, q in enumerate(QUESTIONS)]
    bank = fit_experts(base.model, ExpertPlan("scen", LAYER, 3, 1e-3), edits, base.pad_id).bank
    assert isinstance(bank, FullBank)
    for row, edit in enumerate(edits[:2]):
        weight, _ = train_expert(base.model, LAYER, edit, steps=3, lr=1e-3)
        torch.testing.assert_close(bank.weight_EDF[row], weight, rtol=1e-4, atol=2e-4)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")  # peft asks for it
def test_an_exported_adapter_loads_where_the_expert_was(
    base: Base, edited: EditedModel, tmp_path: Path
) -> None:
    peft = pytest.importorskip("peft")
    from safetensors.torch import save_file

    bank = edited.bank
    assert isinstance(bank, LowRankBank)
    stem = f"base_model.model.model.layers.{LAYER}.mlp.down_proj"
    tensors = {f"{stem}.lora_A.weight": bank.down_ErF[0], f"{stem}.lora_B.weight": bank.up_EDr[0]}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    config = adapter_config(base.name, LAYER, 4)
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    model = AutoModelForCausalLM.from_pretrained(base.folder, dtype=torch.float32)
    adapted = peft.PeftModel.from_pretrained(model, tmp_path).base_model.model
    linear = adapted.model.layers[LAYER].mlp.down_proj
    x_1TF = torch.randn(1, 2, base.config.intermediate_size)
    with torch.no_grad():
        expected = bank.apply(x_1TF, linear.base_layer(x_1TF), torch.tensor([0]))
        torch.testing.assert_close(linear(x_1TF), expected)
    assert sum("lora_A" in name for name, _ in adapted.named_parameters()) == 1


def test_parts_in_bfloat16_are_the_whole(base: Base) -> None:
    loaded = load_base(base.name, template="raw", dtype="bfloat16", device="cpu")
    check_parts(loaded.model)
    batch = pad_prompts([loaded.template.encode_prompt(q) for q in QUESTIONS], loaded.pad_id)
    filled = prefill(loaded.model, batch, LAYER, ())
    assert torch.equal(filled.logits_BV, whole_passes(loaded.model, batch)[:, 0])


def test_a_base_whose_parts_are_not_the_whole_is_refused(tiny: Base) -> None:
    head = tiny.model.model.norm.register_forward_hook(lambda _m, _a, out: out)
    check_parts(tiny.model)
    head.remove()
    tiny.model.model.register_forward_hook(
        lambda _m, _a, out: out.__setitem__("last_hidden_state", out[0] * 1.5)
    )
    with pytest.raises(BaseError, match="its logits differ from a full forward pass by"):
        check_parts(tiny.model)
    assert run_head(tiny.model, torch.zeros(1, 32)).shape == (1, tiny.config.vocab_size)


def test_a_bias_is_kept_by_low_rank_experts_and_refused_in_paper_mode(tmp_path: Path) -> None:
    write_tiny_base(tmp_path, mlp_bias=True)
    base = load_base(str(tmp_path), template="llama2-inst", dtype="float32", device="cpu")
    edit = base.template.encode_edit(Edit("a", QUESTIONS[0], "dune"))
    fitted = fit_experts(base.model, ExpertPlan("scen-lr", LAYER, 20, 5e-2), [edit], base.pad_id)
    assert fitted.losses[0][-1] < fitted.losses[0][0]
    with pytest.raises(ConfigError, match="has a bias"):
        fit_experts(base.model, ExpertPlan("scen", LAYER, 3, 1e-3), [edit], base.pad_id)


@pytest.mark.parametrize(("kind", "why"), [
    ("mixtral", "layer 0 is a mixture of experts"),
    ("qwen3_moe", "layer 0 is a mixture of experts"),
    ("starcoder2", "layer 0 has no linear mlp.down_proj"),
    ("gpt2", "its layers are not at model.layers"),
])  # fmt: skip
def test_what_has_no_such_parts_is_refused(tmp_path: Path, kind: str, why: str) -> None:
    write_tiny_base(tmp_path, kind=kind)
    with pytest.raises(BaseError, match=f"'{kind}' cannot be edited: {why}.*Supported: dense"):
        load_base(str(tmp_path), template="llama2-inst", dtype="float32", device="cpu")
