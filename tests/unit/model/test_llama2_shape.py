"""The shapes of Llama-2-7B, two of its 32 layers: one edit is trained in bfloat16, and answers."""

from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import write_tiny_base
from scen.model.base import load_base
from scen.model.batch import pad_prompts
from scen.model.decode import EditedModel, answer, apply_experts, copy_cache
from scen.model.route import Route, SigmoidNeurons
from scen.model.step import RowCache, step_rows
from scen.records import Edit
from scen.training.experts import ExpertPlan, fit_experts

LAYER = 0


@pytest.mark.slow
def test_an_edit_is_trained_and_served_at_the_width_of_llama_2_7b(tmp_path: Path) -> None:
    torch.set_default_dtype(torch.bfloat16)
    try:
        sizes: dict[str, Any] = {
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 2,
        }
        heads: dict[str, Any] = {"num_attention_heads": 32, "num_key_value_heads": 32}
        write_tiny_base(tmp_path, initializer_range=0.02, **sizes, **heads)
    finally:
        torch.set_default_dtype(torch.float32)
    base = load_base(str(tmp_path), template="llama2-inst", dtype="bfloat16", device="cpu")
    assert base.num_parameters == 2 * (4 * 4096**2 + 3 * 4096 * 11008 + 2 * 4096) + 4096 * (
        2 * 259 + 1
    )
    edit = base.template.encode_edit(Edit("a", "Who founded amber?", "dune"))
    plan = ExpertPlan("scen-lr", LAYER, steps=25, lr=2e-2, stop_loss=0.003)
    fitted = fit_experts(base.model, plan, [edit], base.pad_id)
    nobody = SigmoidNeurons(LAYER, torch.zeros(0, 11008), 1.0)
    edited = EditedModel(base.model, LAYER, fitted.bank, nobody, base.pad_id, base.stop_ids)
    filled = edited.prefill(pad_prompts([edit.prompt], base.pad_id))
    decoded = answer(edited, filled, Route.fixed([0]), 8)
    assert base.template.decode(decoded.tokens[0]) == "dune"
    cache, rows = copy_cache(filled.cache), RowCache(1)
    tokens = [int(apply_experts(edited, filled, Route.fixed([0]), cache).argmax())]
    rows.join(cache, 0, len(edit.prompt.ids))
    while tokens[-1] not in base.stop_ids:
        step_BV = step_rows(edited, rows, torch.tensor(tokens[-1:]), Route.fixed([0]))
        tokens.append(int(step_BV.argmax()))
    assert base.template.decode(tokens[:-1]) == "dune"
