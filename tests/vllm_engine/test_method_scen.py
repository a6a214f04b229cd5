"""Method scen on vLLM: whole matrices that act on the whole prompt, chosen by sigmoid neurons."""

from pathlib import Path

import pytest
import torch

from scen.config import load_config
from scen.fs import Storage
from scen.ledger.ledger import WaveCommit
from scen.ledger.tensors import save_bundle
from scen.model.batch import pad_prompts
from scen.model.prefill import prefill
from scen.snapshot.open import OpenStore, create_store
from scen_serve.engine.caches import ExpertCache, HostExpertCache, empty_bank
from scen_serve.engine.engine import Engine
from scen_serve.engine.request import Request, Sampling
from scen_serve.engine.snapshots import SnapshotReader
from scen_serve.settings import EngineLimits
from scen_vllm.engine import VllmEngine
from unit.serve.conftest import Client, ask, finish, serve_edits, unrelated
from vllm_engine.conftest import ON_CPU, wait_for

pytestmark = [pytest.mark.vllm, pytest.mark.slow]


@pytest.fixture
def store(folder: Path, tmp_path: Path) -> OpenStore:
    """Six edits whose neurons are along the hidden states of their prompts."""
    base = {"name": str(folder), "template": "llama2-inst", "dtype": "float32", "device": "cpu"}
    config = load_config(fixed={"method": "scen", "base": base})
    opened = create_store(Storage(str(tmp_path / "paper")), config, [])
    edits, layer = serve_edits(6), opened.method.layer
    prompts = [opened.base.template.encode_prompt(edit.prompt) for edit in edits]
    filled = prefill(opened.base.model, pad_prompts(prompts, opened.base.pad_id), layer, [layer])
    h_EF = filled.last(layer)
    centred_EF = h_EF - h_EF.mean(0)
    weight_DF = opened.base.model.model.layers[layer].mlp.down_proj.weight.detach()
    draw = torch.Generator().manual_seed(5)
    noise = torch.randn(6, *weight_DF.shape, generator=draw)
    tensors = {
        "weight": weight_DF + noise * weight_DF.std(),
        "neuron": 20 * centred_EF / centred_EF.norm(dim=1, keepdim=True) ** 2,
    }
    wave = WaveCommit("wave-0", "stream", 0, save_bundle(opened.storage, tensors), edits)
    opened.ledger.commit(wave, opened.ledger.version())
    return opened


def test_answers_are_those_of_the_own_engine(store: OpenStore) -> None:
    host = HostExpertCache(store.storage, ("weight",), 1 << 30)
    limits = EngineLimits(max_rows=8, max_context=256, expert_slots=3)
    snapshot = SnapshotReader(store, host).read()
    bank = empty_bank(store.base.config, 0, 8, store.base.device)
    own = Engine(store.base, store.method.layer, ExpertCache(bank, host), limits)
    own.snapshot = snapshot
    prompts = [edit.prompt for edit in serve_edits(6)] + unrelated(4)
    ours = [ask(own, prompt, Sampling(12)) for prompt in prompts]
    finish(own, ours)
    assert len({client.routed.edit_id for client in ours}) > 3
    engine = VllmEngine(store, host, limits, ON_CPU)
    try:
        engine.snapshot = snapshot
        for _ in range(2):  # the second time with a warm prefix cache
            theirs = [Client() for _ in prompts]
            for client, prompt in zip(theirs, prompts, strict=True):
                request = Request(store.base.template.encode_prompt(prompt), Sampling(12))
                engine.submit(request, client.events.append)
            wait_for(theirs)
            for our, their in zip(ours, theirs, strict=True):
                assert our.routed.edit_id == their.routed.edit_id
                assert our.routed.score == pytest.approx(their.routed.score, abs=1e-4)
                assert our.text == their.text
    finally:
        engine.close()
