"""Whether a base fits one worker's device, and ZeRO-3 sharding if it does not."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from scen.config import ClusterConfig
from scen.errors import BaseError, ConfigError
from scen.model.base import Base, pick_device, pick_dtype

Strategy = Literal["replicate", "zero3"]
_SHARE = 0.5  # of a device's memory for the base; the rest is for caches, experts and gradients


def choose_strategy(
    settings: ClusterConfig, base: Base, measure: Callable[[ClusterConfig], int]
) -> Strategy:
    """The strategy of the settings; `auto` compares the base's size to `measure(settings)`, the
    bytes of memory of a worker."""
    if settings.strategy != "auto":
        return settings.strategy
    return "replicate" if base_bytes(base) <= _SHARE * measure(settings) else "zero3"


def base_bytes(base: Base) -> int:
    """Bytes of the whole base in its dtype."""
    width = torch.empty(0, dtype=base.dtype).element_size()
    return int(width * base.num_parameters)


def measure_device(settings: ClusterConfig) -> int:
    """Bytes of memory of a worker of the connected cluster: its GPU's, or else its share of a
    node's main memory."""
    import ray

    nodes: Any = ray.nodes  # untyped in Ray

    def measure() -> int:
        if settings.gpus_per_worker > 0:
            return int(torch.cuda.mem_get_info()[1])
        import psutil

        node_cpus = nodes()[0]["Resources"].get("CPU", 1)
        return int(psutil.virtual_memory().total * min(1, settings.cpus_per_worker / node_cpus))

    return int(_on_worker(settings, measure))


def measure_dtype(settings: ClusterConfig, device: str) -> str:
    """The dtype that base.dtype=auto resolves to on a worker of the connected cluster."""

    def measure() -> str:
        return str(pick_dtype("auto", pick_device(device))).removeprefix("torch.")

    return str(_on_worker(settings, measure))


def _on_worker(settings: ClusterConfig, measure: Callable[[], object]) -> Any:
    """The result of a function that runs with the resources of a worker."""
    import ray

    options = {"num_cpus": settings.cpus_per_worker, "num_gpus": settings.gpus_per_worker}
    return ray.get(ray.remote(measure).options(**options).remote())


# No parameter stays gathered after its use; prefetch about one layer.
DEFAULT: dict[str, Any] = {
    "train_micro_batch_size_per_gpu": 1,
    "zero_optimization": {
        "stage": 3,
        "stage3_param_persistence_threshold": 0,
        "stage3_max_reuse_distance": 0,
        "stage3_prefetch_bucket_size": 2_000_000,
        "stage3_max_live_parameters": 16_000_000,
    },
}


class Zero3Sync:
    """`RankSync` of a sharded base: keeps its ranks in lockstep."""

    def __init__(self, offload: Any, device: torch.device) -> None:
        self._offload = offload
        self._device = device

    def any_rank(self, wants: bool) -> bool:
        """True if any rank needs another pass."""
        flag = torch.tensor([int(wants)], device=self._device)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        return bool(flag.item())

    def whole(self, weight: Tensor) -> Tensor:
        """A weight, gathered and copied."""
        import deepspeed

        with deepspeed.zero.GatheredParameters([weight]):
            return weight.detach().clone()

    def after_backward(self) -> None:
        """Release parameters that backward hooks left gathered (the offload object does not)."""
        self._offload.release_backward_leftovers()


def read_deepspeed(given: str | dict[str, Any] | None) -> dict[str, Any]:
    """A DeepSpeed configuration, from a file or a dict (None: `DEFAULT`). Raises ConfigError
    unless it has stage 3."""
    if given is None:
        return DEFAULT
    name = given if isinstance(given, str) else "what is given"
    try:
        config: dict[str, Any] = (
            json.loads(Path(given).read_text(encoding="utf-8")) if isinstance(given, str) else given
        )
        stage = config["zero_optimization"]["stage"]
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise ConfigError(
            f"cluster.deepspeed: {name} is no DeepSpeed configuration with "
            f"zero_optimization.stage ({err}); see configs/deepspeed"
        ) from err
    if stage != 3:
        raise ConfigError(
            f"cluster.deepspeed: {name} has stage {stage}; sharding a base requires stage 3"
        )
    return config


def load_sharded(load: Callable[[], Base], settings: dict[str, Any]) -> tuple[Base, Zero3Sync]:
    """The base that `load` returns, sharded over the ranks of the process group.

    Raises BaseError if it was loaded whole, since a large base would not fit.
    """
    import deepspeed
    from transformers.integrations.deepspeed import (
        HfDeepSpeedConfig,
        unset_hf_deepspeed_config,
    )

    # Compiling the shared-memory op takes minutes, and fails without ninja.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    backend = dist.get_backend()
    deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)
    keep = HfDeepSpeedConfig(settings)  # from_pretrained reads it while it is alive
    try:
        base = load()
    finally:
        del keep
        unset_hf_deepspeed_config()
    if not all(hasattr(weight, "ds_tensor") for weight in base.model.parameters()):
        raise BaseError(f"base: {base.name} was loaded whole, not sharded")
    engine, *_ = deepspeed.initialize(model=base.model, config=settings)
    return base, Zero3Sync(engine.optimizer, base.device)


def shard_bytes(base: Base) -> int:
    """Bytes of the base that this rank holds: all of them if it is not sharded."""
    return sum(
        tensor.numel() * tensor.element_size()
        for tensor in (getattr(weight, "ds_tensor", weight) for weight in base.model.parameters())
    )
