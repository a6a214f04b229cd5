"""Does a base fit a worker's device, or must it be split over the workers?"""

from collections.abc import Callable
from typing import Any, Literal

import torch

from scen.config import ClusterConfig
from scen.model.base import Base, pick_device, pick_dtype

Strategy = Literal["replicate", "zero3"]
_SHARE = 0.5  # of a device's memory for the base; the rest is for caches, experts and gradients


def choose_strategy(
    settings: ClusterConfig, base: Base, measure: Callable[[ClusterConfig], int]
) -> Strategy:
    """The strategy of the settings; `auto` by the base's size against a worker's memory, bytes,
    which `measure` tells."""
    if settings.strategy != "auto":
        return settings.strategy
    return "replicate" if base_bytes(base) <= _SHARE * measure(settings) else "zero3"


def base_bytes(base: Base) -> int:
    """Bytes of the whole base in its number type."""
    width = torch.empty(0, dtype=base.dtype).element_size()
    return int(width * base.num_parameters)


def measure_device(settings: ClusterConfig) -> int:
    """Bytes of memory that a worker of the connected cluster has: its GPU's, else its share of a
    node's main memory."""
    import ray

    nodes: Any = ray.nodes  # untyped in Ray

    def measure() -> int:
        if settings.gpus_per_worker > 0:
            return int(torch.cuda.mem_get_info()[1])
        import psutil

        here = nodes()[0]["Resources"].get("CPU", 1)
        return int(psutil.virtual_memory().total * min(1, settings.cpus_per_worker / here))

    return int(_on_worker(settings, measure))


def measure_dtype(settings: ClusterConfig, device: str) -> str:
    """What `auto` means for base.dtype on a worker of the connected cluster."""

    def measure() -> str:
        return str(pick_dtype("auto", pick_device(device))).removeprefix("torch.")

    return str(_on_worker(settings, measure))


def _on_worker(settings: ClusterConfig, measure: Callable[[], object]) -> Any:
    """What a function finds where a worker would be."""
    import ray

    options = {"num_cpus": settings.cpus_per_worker, "num_gpus": settings.gpus_per_worker}
    return ray.get(ray.remote(measure).options(**options).remote())
