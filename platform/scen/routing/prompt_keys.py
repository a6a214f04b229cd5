"""The raw keys of prompts, read from the base in batches."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from scen.base.load import Base
from scen.editor.batch import pad_prompts
from scen.editor.keys import KeyPlace, read_keys
from scen.editor.prefill import prefill


def read_prompt_keys(
    base: Base,
    places: tuple[KeyPlace, ...],
    prompts: Sequence[str],
    batch_size: int = 32,
    progress: Callable[[int], None] = lambda _: None,
) -> Tensor:
    """key_NKF float16 of N prompts, in their order. `progress` is told of each batch's size."""
    encoded = [base.template.encode_prompt(prompt) for prompt in prompts]
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i].ids))
    parts = []
    for begin in range(0, len(order), batch_size):
        rows = order[begin : begin + batch_size]
        batch = pad_prompts([encoded[i] for i in rows], base.pad_id, base.device)
        filled = prefill(base.model, batch, places[0].layer, (p.layer for p in places))
        parts.append(read_keys(filled, places).half().cpu())
        progress(len(rows))
    return torch.cat(parts)[torch.tensor(order).argsort()]
