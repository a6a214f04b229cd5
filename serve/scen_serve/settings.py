"""Limits of an engine."""

from dataclasses import dataclass


@dataclass(frozen=True)
class EngineLimits:
    """`max_rows` answers are given at a time, `max_waiting` wait. A prompt and its answer have at
    most `max_context` tokens (the base's own limit, where that is less).

    One prefill takes at most `prefill_tokens` tokens with padding, or a single prompt.
    `expert_slots` experts lie on the device, bundles of `host_bytes` in memory. Keys and values of
    `prefix_bytes` are kept on the device for prompts that begin alike; 0 keeps none, nor does
    method `scen`, whose experts act on the whole prompt.
    """

    max_rows: int = 32
    max_waiting: int = 256
    max_context: int = 4096
    prefill_tokens: int = 1024
    expert_slots: int = 64
    host_bytes: int = 4 << 30
    prefix_bytes: int = 256 << 20
