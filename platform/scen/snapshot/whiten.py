"""The base's own statistics of keys, from neutral prompts."""

from collections.abc import Sequence

import torch
from torch import Tensor

from scen.base.load import Base
from scen.editor.batch import pad_prompts
from scen.editor.neurons import KeyPlace, read_keys
from scen.editor.prefill import prefill
from scen.editor.whitening import Whitening


def read_prompt_keys(
    base: Base, places: tuple[KeyPlace, ...], prompts: Sequence[str], batch_size: int
) -> Tensor:
    """key_NKF float32 of N prompts, in their order."""
    encoded = [base.template.encode_prompt(prompt) for prompt in prompts]
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i].ids))
    parts = []
    for begin in range(0, len(order), batch_size):
        rows = order[begin : begin + batch_size]
        batch = pad_prompts([encoded[i] for i in rows], base.pad_id, base.device)
        filled = prefill(base.model, batch, places[0].layer, (p.layer for p in places))
        parts.append(read_keys(filled, places).cpu())
    return torch.cat(parts)[torch.tensor(order).argsort()]


def fit_whitening(
    base: Base, places: tuple[KeyPlace, ...], prompts: Sequence[str], shrinkage: float
) -> Whitening:
    """The whitening of a base at these places."""
    return Whitening.fit(read_prompt_keys(base, places, prompts, 32), shrinkage)
