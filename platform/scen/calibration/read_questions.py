"""The raw keys of many questions at many depths, narrowed where the base is wide.

Suffixes: N prompts, K places, F numbers of a raw key, G of a narrowed one.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from scen.base.load import Base
from scen.editor.keys import KeyPlace
from scen.routing.encoder import random_view
from scen.routing.prompt_keys import read_prompt_keys

_DEPTHS = 10  # keys are tried at each tenth of the base but its ends
_WIDEST = 2048  # G: statistics of wider keys cost minutes and gigabytes, and are no better
_CHUNK = 512


def candidate_places(num_layers: int) -> tuple[KeyPlace, ...]:
    """Mean and last token at every tenth of the depth."""
    depths = [round(num_layers * tenth / _DEPTHS) for tenth in range(1, _DEPTHS)]
    layers = dict.fromkeys(min(max(depth, 1), num_layers - 1) for depth in depths)
    return tuple(KeyPlace(layer, kind) for layer in layers for kind in ("mean", "last"))


def narrowing(width_F: int) -> Tensor | None:
    """A random projection_FG that keeps the geometry of keys; None where they are narrow."""
    return None if width_F <= _WIDEST else random_view(1, width_F, _WIDEST, seed=2)[0]


def read_questions(
    base: Base,
    places: tuple[KeyPlace, ...],
    texts: Sequence[str],
    projection_FG: Tensor | None,
    progress: Callable[[int], None] = lambda _: None,
) -> Tensor:
    """key_NKG float16 of the prompts. `progress` is told of each batch's size."""
    parts = []
    for begin in range(0, len(texts), _CHUNK):
        some = texts[begin : begin + _CHUNK]
        key_NKF = read_prompt_keys(base, places, some, progress=progress)
        parts.append(key_NKF if projection_FG is None else (key_NKF.float() @ projection_FG).half())
    return torch.cat(parts)
