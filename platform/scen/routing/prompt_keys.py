"""The raw keys of prompts, read from the base in batches."""

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from scen.base.load import Base
from scen.editor.batch import pad_prompts
from scen.editor.keys import KeyPlace, read_keys
from scen.editor.prefill import prefill
from scen.records import EncodedPrompt

BATCH = 32
"""Prompts that are read side by side."""


def batch_prompts(prompts: Sequence[EncodedPrompt], batch_size: int = BATCH) -> list[list[int]]:
    """The prompts (indices) that are read side by side: like beside like, by length."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i].ids))
    return [order[begin : begin + batch_size] for begin in range(0, len(order), batch_size)]


def read_prompt_keys(
    base: Base,
    places: tuple[KeyPlace, ...],
    prompts: Sequence[str],
    batch_size: int = BATCH,
    progress: Callable[[int], None] = lambda _: None,
) -> Tensor:
    """key_NKF float16 of N prompts, in their order. `progress` is told of each batch's size."""
    encoded = [base.template.encode_prompt(prompt) for prompt in prompts]
    batches = batch_prompts(encoded, batch_size)
    parts = []
    for rows in batches:
        batch = pad_prompts([encoded[i] for i in rows], base.pad_id, base.device)
        filled = prefill(base.model, batch, places[0].layer, (p.layer for p in places))
        parts.append(read_keys(filled, places).half().cpu())
        progress(len(rows))
    return torch.cat(parts)[torch.tensor(list(itertools.chain(*batches))).argsort()]
