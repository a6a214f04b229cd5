"""Raw keys and routed texts of prompts: read from the base in batches, packed for a bundle.

Suffixes: N prompts, K places, F numbers of a raw key, M spans, E edits, B bytes of a text.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from scen.model.base import Base
from scen.model.batch import pad_prompts
from scen.model.decoder import NO_SYNC, RankSync
from scen.model.keys import KeyPlace, SpanKeys, join_spans, read_keys, read_span_keys
from scen.model.prefill import prefill
from scen.records import EncodedPrompt

BATCH = 32
"""Prompts per batch."""

_TOKENS = 2560  # of a batch of long prompts, padding included


def batch_prompts(prompts: Sequence[EncodedPrompt], batch_size: int = BATCH) -> list[list[int]]:
    """Indices of the prompts of each batch, grouped by length."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i].ids))
    return [order[begin : begin + batch_size] for begin in range(0, len(order), batch_size)]


def read_prompt_keys(
    base: Base,
    places: tuple[KeyPlace, ...],
    prompts: Sequence[str],
    batch_size: int = BATCH,
    progress: Callable[[int], None] = lambda _: None,
    sync: RankSync = NO_SYNC,
) -> Tensor:
    """key_NKF float16 of N prompts, in their order. `progress` is called with each batch's size."""
    encoded = [base.template.encode_prompt(prompt) for prompt in prompts]
    batches = batch_prompts(encoded, batch_size)
    parts = []
    for rows in batches:
        batch = pad_prompts([encoded[i] for i in rows], base.pad_id, base.device)
        layers = [place.layer for place in places]
        filled = prefill(base.model, batch, layers[0], layers, sync=sync)
        parts.append(read_keys(filled, places).half().cpu())
        progress(len(rows))
    return torch.cat(parts)[torch.tensor(list(itertools.chain(*batches))).argsort()]


def read_prompt_spans(
    base: Base,
    places: tuple[KeyPlace, ...],
    prompts: Sequence[EncodedPrompt],
    progress: Callable[[int], None] = lambda _: None,
) -> SpanKeys:
    """The keys (float16) of all spans of N prompts, in their order. `progress` is called with
    each batch's size."""
    parts: list[SpanKeys] = []
    for rows in _long_batches(prompts):
        batch = pad_prompts([prompts[i] for i in rows], base.pad_id, base.device)
        filled = prefill(base.model, batch, places[0].layer, (p.layer for p in places))
        keys = read_span_keys(filled, places).to(torch.device("cpu"))
        numbers_N = torch.tensor(rows)
        key_MKF = keys.key_MKF.half()
        parts.append(replace(keys, key_MKF=key_MKF, row_M=numbers_N[keys.row_M]))
        progress(len(rows))
    joined = join_spans(parts)
    return joined.take(joined.row_M.argsort(stable=True))


def _long_batches(prompts: Sequence[EncodedPrompt]) -> list[list[int]]:
    """Batches of prompts of similar length, smaller where prompts are long."""
    batches: list[list[int]] = [[]]
    for index in sorted(range(len(prompts)), key=lambda i: len(prompts[i].ids)):
        size = len(prompts[index].ids)
        if len(batches[-1]) == BATCH or (len(batches[-1]) + 1) * size > max(_TOKENS, size):
            batches.append([])
        batches[-1].append(index)
    return [batch for batch in batches if batch]


WIDTH = 256
"""Bytes of UTF-8 that are kept; the rest is not compared."""


def pack_texts(texts: Sequence[str]) -> Tensor:
    """text_EB uint8: each text as UTF-8, truncated to B bytes and zero-padded."""
    rows = torch.zeros(len(texts), WIDTH, dtype=torch.uint8)
    for row, text in zip(rows, texts, strict=True):
        data = text.encode()[:WIDTH]
        row[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else 0
    return rows


def unpack_texts(text_EB: Tensor) -> list[str]:
    """Inverse of `pack_texts`; a character that was cut in two is dropped."""
    return [
        bytes(row.tolist()).rstrip(b"\0").decode(errors="ignore")
        for row in text_EB.to(torch.uint8).unbind()
    ]
