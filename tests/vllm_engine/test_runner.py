"""What the hooks read from the two model runners, and which functions of vLLM they replace.

The V2 runner needs Triton: its hook runs here on a runner with its attributes, and the functions it
replaces are checked to exist with the parameters that it passes on.
"""

import inspect
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from scen.errors import ConfigError
from scen_vllm import plugin, runner
from scen_vllm.step import Bank, Step
from scen_vllm.wish import Settings
from scen_vllm.worker import Hooks

pytestmark = pytest.mark.vllm
CPU = torch.device("cpu")


def parameters(function: Any) -> list[str]:
    """The names of a function's parameters, also of one that a hook replaced."""
    return list(inspect.signature(function).parameters)


def request(name: str, wish: dict[str, Any] | None) -> SimpleNamespace:
    """A new request as the scheduler describes it."""
    params = SimpleNamespace(extra_args={"scen": wish} if wish else None)
    return SimpleNamespace(req_id=name, sampling_params=params)


class SecondRunner:
    """The attributes and methods of vLLM's V2 runner that the hook uses."""

    def __init__(self) -> None:
        self.req_states = SimpleNamespace(
            req_id_to_index={}, num_computed_tokens_np=np.zeros(8, np.int32)
        )

    def add_requests(self, scheduler_output: Any) -> None:
        for new in scheduler_output.scheduled_new_reqs:
            self.req_states.req_id_to_index[new.req_id] = len(self.req_states.req_id_to_index)

    def prepare_inputs(self, scheduler_output: Any, batch: Any, *_: Any, **__: Any) -> str:
        return "prepared"


def test_the_hook_of_the_v2_runner(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(2, ((2, "last"),), 1, 2)
    bank = Bank(settings, (4, 6), CPU)
    bank.names[1] = "bundle:0"
    hooks = Hooks(Step(settings, [2], bank, CPU), 0, 6, CPU)
    monkeypatch.setattr(runner, "_hooks", hooks)
    patched = type("Patched", (SecondRunner,), {})
    runner._patch_v2(patched)
    running = patched()
    wishes = {
        "a": {"expert": "bundle:0", "slot": 1, "start": 5},
        "b": None,
        "c": {"key": "k", "spans": [[0, 2]], "last": 3},
    }
    new = [request(name, wish) for name, wish in wishes.items()]
    running.add_requests(SimpleNamespace(scheduled_new_reqs=new))
    running.req_states.num_computed_tokens_np[:3] = [4, 9, 0]
    order = np.array([1, 0, 2])  # the runner sorts its batch
    batch = SimpleNamespace(
        req_ids=["b", "a", "c"],
        idx_mapping_np=order,
        num_scheduled_tokens=np.array([1, 3, 4], np.int32),
    )
    assert running.prepare_inputs(None, batch, "descriptor", num_active_loras=0) == "prepared"
    plan = hooks.step._plan
    assert plan.at_R is not None
    assert plan.at_R.tolist() == [2, 3]  # from position 5 on; the batch begins at 4
    assert plan.slot_R is not None
    assert plan.slot_R.tolist() == [1, 1]
    assert [reading.request_id for reading in plan.readings] == ["c"]
    del running.req_states.req_id_to_index["a"]
    running.prepare_inputs(
        None, SimpleNamespace(req_ids=[], idx_mapping_np=order[:0], num_scheduled_tokens=order[:0])
    )
    assert sorted(hooks.wishes) == ["b", "c"]


@pytest.mark.slow  # imports vLLM
def test_the_functions_that_are_replaced_have_the_parameters_that_are_passed_on() -> None:
    from vllm.v1.core import kv_cache_utils
    from vllm.v1.core.kv_cache_manager import KVCacheManager
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner
    from vllm.v1.worker.gpu_worker import Worker

    hash_keys = kv_cache_utils.generate_block_hash_extra_keys
    assert parameters(hash_keys) == [
        *("request", "start_token_idx", "end_token_idx", "start_mm_idx")
    ]
    assert parameters(KVCacheManager.get_computed_blocks) == ["self", "request"]
    assert parameters(GPUModelRunner._prepare_inputs)[1:] == [
        *("scheduler_output", "num_scheduled_tokens")
    ]
    assert parameters(GPUModelRunner.execute_model)[0] == "self"
    assert parameters(Worker.load_model)[0] == "self"


@pytest.mark.slow
def test_the_v2_runner_has_what_its_hook_needs() -> None:
    module = pytest.importorskip("vllm.v1.worker.gpu.model_runner")
    states = pytest.importorskip("vllm.v1.worker.gpu.states")
    source = inspect.getsource(module.GPUModelRunner)
    assert "def add_requests(self, scheduler_output" in source
    assert 'batch_req_state: "BatchReqState"' in source
    for name in ("req_ids", "idx_mapping_np", "num_scheduled_tokens"):
        assert f"batch_req_state.{name}" in source
    states = inspect.getsource(states.RequestState)
    assert "self.num_computed_tokens_np" in states
    assert "self.req_id_to_index" in states


@pytest.mark.parametrize("version", ["0.31.2", "0.33.0", "0.320.0", "1.0", "0.3"])
def test_other_versions_are_refused_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch, version: str, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(plugin, "_installed_version", lambda: version)
    with pytest.raises(ConfigError, match=f"works with vLLM 0.32, not with {version}"):
        plugin.require_version()
    monkeypatch.setattr(plugin, "_done", [])
    plugin.register()  # vLLM without edits still works
    assert plugin._done == []
    assert f"not with {version}" in caplog.text


@pytest.mark.parametrize("version", ["0.32.0", "0.32.5", "0.32.1+cpu", "0.32.0rc1"])
def test_patches_of_the_supported_version_are_accepted(
    monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    monkeypatch.setattr(plugin, "_installed_version", lambda: version)
    plugin.require_version()
