"""Hooks of vLLM's workers: the op after `down_proj`, and what a batch of a model runner holds.

Both model runners of vLLM are covered: V1 (`gpu_model_runner.py`, also the CPU's) and V2
(`worker/gpu/model_runner.py`, the default on GPUs).
"""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from scen.errors import BaseError
from scen_vllm.step import Bank, Step, Work
from scen_vllm.wish import Settings, Wish, wish_of
from scen_vllm.worker import Hooks

_hooks: Hooks | None = None
"""Those of this process; vLLM runs one worker per process."""


def scen_down(x: Tensor, y: Tensor, layer: int) -> None:
    """The op `vllm::scen_down`: input (this rank's part) and output of `down_proj`, before the sum
    over ranks. Changes `y` where an expert acts."""
    if _hooks is None:
        return
    if x.is_cuda and torch.cuda.is_current_stream_capturing():
        _hooks.step.record(x, y, layer)
    else:
        _hooks.step.run(x, y, layer)


def _fake_scen_down(x: Tensor, y: Tensor, layer: int) -> None:
    return None


class TappedMethod:
    """A linear's `quant_method` that passes its input and output to the op. Forward hooks would not
    survive torch.compile."""

    requires_unquantized_input = True  # or an FP8 base would pass a quantised input

    def __init__(self, inner: Any, layer: int) -> None:
        self.inner = inner
        self.layer = layer

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["inner"], name)

    def apply(self, linear: Any, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """The output of the linear, on this rank."""
        y: Tensor = self.inner.apply(linear, x, bias)
        torch.ops.vllm.scen_down(x, y, self.layer)
        return y


def patch_runners() -> None:
    """Register the op and replace functions of the worker and of both runners."""
    from vllm.utils.torch_utils import direct_register_custom_op
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner
    from vllm.v1.worker.gpu_worker import Worker

    if not hasattr(torch.ops.vllm, "scen_down"):
        direct_register_custom_op(
            "scen_down", scen_down, mutates_args=["y"], fake_impl=_fake_scen_down
        )
    _patch_load(Worker)
    _patch_execute(GPUModelRunner)
    _patch_v1(GPUModelRunner)
    try:
        from vllm.v1.worker.gpu.model_runner import GPUModelRunner as SecondRunner
    except ImportError:  # it needs Triton
        return
    _patch_execute(SecondRunner)
    _patch_v2(SecondRunner)


def _patch_load(worker: Any) -> None:
    load = worker.load_model

    def load_model(self: Any, *args: Any, **options: Any) -> None:
        global _hooks
        load(self, *args, **options)
        settings = Settings.find(self.vllm_config.additional_config)
        _hooks = None if settings is None else tap_model(self, settings)
        self.scen_hooks = _hooks

    worker.load_model = load_model


def _patch_execute(runner: Any) -> None:
    """Send the keys after each forward pass, before sampling."""
    execute, dummy = runner.execute_model, runner._dummy_run

    def execute_model(self: Any, *args: Any, **options: Any) -> Any:
        if _hooks is None or options.get("dummy_run"):
            return execute(self, *args, **options)
        output = execute(self, *args, **options)
        _hooks.send(_hooks.step.finish())
        return output

    def _dummy_run(self: Any, *args: Any, **options: Any) -> Any:
        if _hooks is not None:
            _hooks.step.clear()
        return dummy(self, *args, **options)

    runner.execute_model, runner._dummy_run = execute_model, _dummy_run


def _patch_v1(runner: Any) -> None:
    prepare = runner._prepare_inputs

    def _prepare_inputs(self: Any, scheduler_output: Any, num_scheduled_tokens: Any) -> Any:
        prepared = prepare(self, scheduler_output, num_scheduled_tokens)
        if _hooks is not None:
            batch = self.input_batch
            wishes = [wish_of(self.requests[name].sampling_params) for name in batch.req_ids]
            begins = batch.num_computed_tokens_cpu[: batch.num_reqs]
            works = work_of(batch.req_ids, wishes, begins, num_scheduled_tokens)
            _hooks.step.plan(works, self.requests.keys())
        return prepared

    runner._prepare_inputs = _prepare_inputs


def _patch_v2(runner: Any) -> None:
    """The V2 runner keeps no SamplingParams, so wishes are noted as requests come."""
    add, prepare = runner.add_requests, runner.prepare_inputs

    def add_requests(self: Any, scheduler_output: Any) -> None:
        add(self, scheduler_output)
        if _hooks is not None:
            for request in scheduler_output.scheduled_new_reqs:
                _hooks.wishes[request.req_id] = wish_of(request.sampling_params)

    def prepare_inputs(
        self: Any, scheduler_output: Any, batch: Any, *args: Any, **rest: Any
    ) -> Any:
        prepared = prepare(self, scheduler_output, batch, *args, **rest)
        if _hooks is not None:
            states = self.req_states
            alive = states.req_id_to_index
            _hooks.wishes = {n: wish for n, wish in _hooks.wishes.items() if n in alive}
            wishes = [_hooks.wishes.get(name, {}) for name in batch.req_ids]
            begins = states.num_computed_tokens_np[batch.idx_mapping_np]
            works = work_of(batch.req_ids, wishes, begins, batch.num_scheduled_tokens)
            _hooks.step.plan(works, alive.keys())
        return prepared

    runner.add_requests, runner.prepare_inputs = add_requests, prepare_inputs


def work_of(names: Iterable[str], wishes: Iterable[Wish], begins: Any, counts: Any) -> list[Work]:
    """The requests of a batch, from the arrays of a runner."""
    rows = zip(names, wishes, begins.tolist(), counts.tolist(), strict=True)
    return [Work(name, wish, begin, count) for name, wish, begin, count in rows]


def tap_model(worker: Any, settings: Settings) -> Hooks:
    """Tap the layers of a loaded model that are on this worker. Raises BaseError for an
    architecture without a `down_proj` at one of them."""
    model = worker.model_runner.get_model()
    linears = dict(_find_linears(model, settings))
    device = next(model.parameters()).device
    config = worker.vllm_config
    linear = next(iter(linears.values()), None)
    width_F = 0 if linear is None else linear.input_size_per_partition
    width_D = 0 if linear is None else linear.output_size
    bank = Bank(settings, (width_D, width_F), device)
    step = Step(settings, list(linears), bank, device)
    graph_tokens = config.compilation_config.max_cudagraph_capture_size or 0
    if device.type == "cuda" and not config.model_config.enforce_eager and graph_tokens:
        step.make_static(graph_tokens, width_F, config.model_config.dtype)
    for layer, linear in linears.items():
        linear.quant_method = TappedMethod(linear.quant_method, layer)
    tp_rank = 0 if linear is None else linear.tp_rank
    return Hooks(step, tp_rank, width_F, device)


def _find_linears(model: Any, settings: Settings) -> Iterator[tuple[int, Any]]:
    """The `down_proj` of each tapped layer of this worker."""
    inner = getattr(model, "model", None)
    layers = getattr(inner, "layers", None)
    if inner is None or layers is None:
        raise BaseError(f"engine vllm: {type(model).__name__} has no layers that can be edited")
    begin = getattr(inner, "start_layer", 0)  # pipeline parallel: a part of them
    end = getattr(inner, "end_layer", len(layers))
    for layer in sorted({settings.layer, *(layer for layer, _ in settings.places)}):
        if begin <= layer < end:
            linear = getattr(getattr(layers[layer], "mlp", None), "down_proj", None)
            if linear is None or not hasattr(linear, "quant_method"):
                raise BaseError(
                    f"engine vllm: layer {layer} of {type(model).__name__} has no mlp.down_proj"
                )
            yield layer, linear
