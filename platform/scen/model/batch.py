"""Batches of token rows: prompts are left-padded, targets right-padded. And the argument with which
forward methods take a cache, whose name depends on the version of transformers."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor

from scen.errors import BaseError
from scen.records import EncodedEdit, EncodedPrompt

IGNORED = -100  # label that cross-entropy ignores
_OLDEST, _RENAMED, _UNTESTED = (5, 16, 1), (5, 24), (5, 25)  # versions of transformers


def cache_name(version: str = transformers.__version__) -> str:
    """The argument of forward methods that takes a cache, `past_key_values` before transformers
    5.24. They ignore a wrong name, and answer wrongly: raises BaseError for an untested version."""
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:3])
    if not _OLDEST <= numbers < _UNTESTED:
        raise BaseError(
            f"transformers {version} is not supported: its forward passes may differ. Install one "
            "that is tested: pip install 'transformers>=5.16.1,<5.25'"
        )
    return "cache" if numbers >= _RENAMED else "past_key_values"


def cache_argument(cache: Any) -> dict[str, Any]:
    """Keyword arguments for a forward pass with this cache. Raises as `cache_name` does."""
    return {cache_name(): cache}


@dataclass(frozen=True)
class PromptBatch:
    """Left-padded prompts: the last prompt token of every row is at position -1. The padding comes
    after the first `shared` tokens, which are the same in all rows.

    `ids_BP` int64; `mask_BP` bool, True for real tokens; `user_mask_BP` bool, True for the user's
    own words; `span_BNP` bool, the routed spans of a row, the whole message first (all False where
    a row has fewer than N); `texts` the spans as text (empty for prompts without spans).
    `copies` holds the normalised forms of the rows `copied_C`, which are routed instead of them.
    """

    ids_BP: Tensor
    mask_BP: Tensor
    user_mask_BP: Tensor
    span_BNP: Tensor
    texts: tuple[tuple[str, ...], ...]
    copied_C: tuple[int, ...] = ()
    copies: "PromptBatch | None" = None
    shared: int = 0

    def __len__(self) -> int:
        return len(self.ids_BP)

    @property
    def positions_BP(self) -> Tensor:
        """Position ids; the first real token of a row is 0."""
        return positions_of(self.mask_BP)


@dataclass(frozen=True)
class TrainBatch:
    """Left-padded prompts followed by right-padded targets.

    `ids_BT` and `mask_BT` cover the prompt and the target without its end token, P + S - 1
    positions; `labels_BS` holds the target tokens, predicted at positions P-1 .. P+S-2.
    """

    ids_BT: Tensor
    mask_BT: Tensor
    labels_BS: Tensor
    prompt_length: int

    @property
    def positions_BT(self) -> Tensor:
        """Position ids; the first real token of a row is 0."""
        return positions_of(self.mask_BT)


def positions_of(mask_BT: Tensor) -> Tensor:
    """Position ids, counting real tokens only."""
    return (mask_BT.long().cumsum(1) - 1).clamp(min=0)


_WORTH_SHARING = 8  # tokens


def shared_beginning(prompts: Sequence[EncodedPrompt]) -> int:
    """How many tokens all prompts begin with before the words of any user, such as those of a
    system prompt; 0 if there are few, or a single prompt."""
    end = min(min(p.own[0], len(p.ids) - 1) for p in prompts)
    tokens_P = enumerate(zip(*(p.ids[:end] for p in prompts), strict=True))
    count = next((i for i, tokens in tokens_P if len(set(tokens)) > 1), end)
    return count if count >= _WORTH_SHARING and len(prompts) > 1 else 0


def pad_prompts(
    prompts: Sequence[EncodedPrompt],
    pad_id: int,
    device: torch.device | str = "cpu",
    shared: int = 0,
) -> PromptBatch:
    """Prompts of different lengths as one left-padded batch. `shared` is 0 or what
    `shared_beginning` gives for these prompts."""
    width = max(len(p.ids) for p in prompts)
    gaps = [width - len(p.ids) for p in prompts]
    ids = [
        [*p.ids[:shared], *[pad_id] * gap, *p.ids[shared:]]
        for p, gap in zip(prompts, gaps, strict=True)
    ]
    position_P = torch.arange(width)
    gap_B1 = torch.tensor(gaps)[:, None]
    user_mask_BP = _between(torch.tensor([p.own for p in prompts]) + gap_B1, position_P)
    spans = [p.spans or (p.own,) for p in prompts]
    num_spans = max(map(len, spans))
    padded = [[*row, *[(0, 0)] * (num_spans - len(row))] for row in spans]
    span_BNP = _between(torch.tensor(padded) + gap_B1[..., None], position_P)
    copied = tuple(i for i, p in enumerate(prompts) if p.routed)
    routed = [p.routed for p in prompts if p.routed]
    return PromptBatch(
        torch.tensor(ids).to(device),
        ((position_P < shared) | (position_P >= gap_B1 + shared)).to(device),
        user_mask_BP.to(device),
        span_BNP.to(device),
        tuple(p.texts for p in prompts),
        copied,
        pad_prompts(routed, pad_id, device) if routed else None,
        shared,
    )


def _between(span_X2: Tensor, position_P: Tensor) -> Tensor:
    """[..., P] bool: the positions within half-open spans [..., 2]."""
    begin_X1, end_X1 = span_X2[..., :1], span_X2[..., 1:]
    return (position_P >= begin_X1) & (position_P < end_X1)


def pad_edits(
    edits: Sequence[EncodedEdit],
    pad_id: int,
    device: torch.device | str = "cpu",
    shared: int = 0,
) -> TrainBatch:
    """Edits of different lengths as one batch for teacher forcing. `shared` is as in
    `pad_prompts`."""
    prompts = pad_prompts([e.prompt for e in edits], pad_id, device, shared)
    width = max(len(e.target) for e in edits)
    labels = [list(e.target) + [IGNORED] * (width - len(e.target)) for e in edits]
    labels_BS = torch.tensor(labels).to(device)
    fed_BS = labels_BS[:, :-1]
    # A target token is fed only if there is another one to predict after it.
    real_BS = labels_BS[:, 1:] != IGNORED
    ids_BT = torch.cat([prompts.ids_BP, fed_BS.masked_fill(~real_BS, pad_id)], 1)
    mask_BT = torch.cat([prompts.mask_BP, real_BS], 1)
    return TrainBatch(ids_BT, mask_BT, labels_BS, prompts.ids_BP.shape[1])
