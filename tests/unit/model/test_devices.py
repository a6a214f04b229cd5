"""What must hold on each device: bit-identity in mixed batches, learned edits, routes, batching.

On the CPU these run always; on a GPU with `pytest -m gpu`.
"""

from pathlib import Path

import pytest
import torch

from scen.model.base import Base, load_base
from scen.model.batch import pad_prompts
from scen.model.decode import EditedModel, answer, apply_experts, copy_cache
from scen.model.keys import KeyPlace, read_keys
from scen.model.prefill import prefill
from scen.model.route import Route, SigmoidNeurons
from scen.model.step import RowCache, step_rows
from scen.records import Edit, EncodedEdit
from scen.routing.neurons import KeyNeurons
from scen.routing.router import plain_router
from scen.training.experts import ExpertPlan, fit_experts

LAYER = 3
PLACES = (KeyPlace(1, "mean"), KeyPlace(4, "last"))
GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
each_device = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=GPU)])
each_dtype = pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])


def load(folder: Path, device: str, dtype: str = "float32") -> Base:
    return load_base(str(folder), template="llama2-inst", dtype=dtype, device=device)


def train(base: Base, edits: list[Edit]) -> tuple[list[EncodedEdit], EditedModel]:
    """The edits as tokens, and the base with their experts and no neurons."""
    encoded = [base.template.encode_edit(edit) for edit in edits]
    plan = ExpertPlan("scen-lr", LAYER, steps=40, lr=5e-2, stop_loss=0.003)
    bank = fit_experts(base.model, plan, encoded, base.pad_id).bank
    nobody = SigmoidNeurons(LAYER, torch.zeros(0, 64, device=base.device), 1.0)
    return encoded, EditedModel(base.model, LAYER, bank, nobody, base.pad_id, base.stop_ids)


@each_dtype
@each_device
def test_a_mixed_batch_gives_each_row_its_own_and_the_others_the_base_s_bits(
    tiny_folder: Path, edits: list[Edit], device: str, dtype: str
) -> None:
    base = load(tiny_folder, device, dtype)
    encoded, edited = train(base, edits)
    filled = edited.prefill(pad_prompts([e.prompt for e in encoded], base.pad_id, base.device))
    experts = [0, -1, 2, -1, 4, -1]
    route = Route.fixed(experts, base.device)
    mixed = answer(edited, filled, route, 24, keep_logits=True)
    plain = answer(edited, filled, Route.base(6, base.device), 24, keep_logits=True)
    assert mixed.logits_BSV is not None
    assert plain.logits_BSV is not None
    assert mixed.logits_BSV.device.type == device
    for row, (expert, edit) in enumerate(zip(experts, edits, strict=True)):
        said = base.template.decode(mixed.tokens[row])
        if expert >= 0:
            assert said == edit.target
            continue
        assert mixed.tokens[row] == plain.tokens[row]
        steps = min(len(plain.tokens[row]) + 1, mixed.logits_BSV.shape[1])
        assert torch.equal(mixed.logits_BSV[row, :steps], plain.logits_BSV[row, :steps])


@each_device
def test_prompts_are_routed_as_on_the_cpu(
    tiny_folder: Path, edits: list[Edit], device: str
) -> None:
    chosen = []
    for place in ("cpu", device):
        base = load(tiny_folder, place)
        prompts = [base.template.encode_prompt(edit.prompt) for edit in edits]
        batch = pad_prompts(prompts, base.pad_id, base.device)
        filled = prefill(base.model, batch, LAYER, [place.layer for place in PLACES])
        sample_NKF = torch.randn(20, 2, 64, generator=torch.Generator().manual_seed(0))
        router = plain_router(PLACES, sample_NKF, 0.1, 0.6)
        neurons = KeyNeurons.build(router, read_keys(filled, PLACES).cpu()[:4])
        route = neurons.route(filled)
        assert route.expert_B.device.type == place
        chosen.append((route.expert_B.tolist(), route.nearest_B.tolist()))
    assert chosen[0] == chosen[1]
    assert chosen[0][0][:4] == [0, 1, 2, 3]


@each_device
def test_rows_of_a_running_batch_say_what_they_say_together(
    tiny_folder: Path, edits: list[Edit], device: str
) -> None:
    base = load(tiny_folder, device)
    encoded, edited = train(base, edits[:3])
    filled = edited.prefill(pad_prompts([e.prompt for e in encoded], base.pad_id, base.device))
    route = Route.fixed([0, -1, 2], base.device)
    told = answer(edited, filled, route, 8).tokens
    cache, rows = copy_cache(filled.cache), RowCache(3)
    tokens = [apply_experts(edited, filled, route, cache).argmax(-1)]
    for row, edit in enumerate(encoded):
        rows.join(cache, row, len(edit.prompt.ids))
    while len(tokens) < 8:
        tokens.append(step_rows(edited, rows, tokens[-1], route).argmax(-1))
    spoken = torch.stack(tokens, 1).tolist()
    assert [row[: len(kept)] for row, kept in zip(spoken, told, strict=True)] == told
