"""The two editing methods: what each stores per edit, and how it routes prompts to edits."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

MethodName = Literal["scen-lr", "scen"]


@dataclass(frozen=True, slots=True)
class Method:
    """The properties of an editing method, which callers check instead of comparing names.

    `expert_tensors` and `neuron_tensors` name the tensors of a bundle, with edits along the first
    axis. `is_low_rank`: experts are rank-r terms in float16, applied from the last prompt token on;
    otherwise whole matrices in float32, applied at every position. `has_router`: the store's router
    compares stored keys; otherwise each edit has a sigmoid neuron, which is trained in stage 2 of
    its wave from the hidden states `h` and fires above `router.theta`. `defaults` are the settings
    that differ from those of `Config`.
    """

    name: MethodName
    expert_tensors: tuple[str, ...]
    neuron_tensors: tuple[str, ...]
    is_low_rank: bool
    has_router: bool
    defaults: Mapping[str, Any] = field(default_factory=dict)


METHODS: Mapping[str, Method] = {
    method.name: method
    for method in (
        Method("scen-lr", ("down", "up"), ("key", "text"), is_low_rank=True, has_router=True),
        Method(
            "scen",  # as published, arXiv 2404.02699
            ("weight",),
            ("neuron",),
            is_low_rank=False,
            has_router=False,
            defaults={"expert": {"steps": 10, "lr": 1e-4, "stop_loss": 0.0, "batch_size": 8}},
        ),
    )
}
"""Methods by name, as in the setting `method`."""
