"""The raw keys of many questions at many depths, narrowed where the base is wide.

Suffixes: M spans of all questions, K places, F numbers of a raw key, G of a narrowed one.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor

from scen.model.base import Base
from scen.model.keys import KeyKind, KeyPlace, SpanKeys, join_spans
from scen.routing.encoder import random_view
from scen.routing.prompt_keys import read_prompt_spans
from scen.training.router_set import Question

_USUAL: tuple[tuple[KeyKind, float], ...] = (
    ("span", 0.2),
    ("span", 0.3),
    ("last", 0.3),
    ("last", 0.5),
    ("span", 0.6),
    ("last", 0.8),
)
_DEPTHS = 10  # keys are tried at each tenth of the base but its ends
_WIDEST = 2048  # G: statistics of wider keys cost minutes and gigabytes, and are no better
_CHUNK = 512


def usual_places(num_layers: int) -> tuple[KeyPlace, ...]:
    """Where keys are read unless the places are searched for: sentences early and in the middle
    (which entity), the last token from the middle on (which question, and is it one)."""
    places = [KeyPlace(max(1, int(num_layers * depth)), kind) for kind, depth in _USUAL]
    return tuple(sorted(dict.fromkeys(places), key=lambda place: place.layer))


def candidate_places(num_layers: int) -> tuple[KeyPlace, ...]:
    """Sentences and last token at every tenth of the depth."""
    depths = [round(num_layers * tenth / _DEPTHS) for tenth in range(1, _DEPTHS)]
    layers = dict.fromkeys(min(max(depth, 1), num_layers - 1) for depth in depths)
    return tuple(KeyPlace(layer, kind) for layer in layers for kind in ("span", "last"))


def narrowing(width_F: int) -> Tensor | None:
    """A random projection_FG that keeps the geometry of keys; None where they are narrow."""
    return None if width_F <= _WIDEST else random_view(1, width_F, _WIDEST, seed=2)[0]


def read_questions(
    base: Base,
    places: tuple[KeyPlace, ...],
    questions: Sequence[Question],
    projection_FG: Tensor | None,
    progress: Callable[[int], None] = lambda _: None,
) -> SpanKeys:
    """Keys (float16) of all spans of some questions. `progress` is told of each batch's size."""
    encoded = [base.template.encode_chat(question.messages) for question in questions]
    parts: list[SpanKeys] = []
    for begin in range(0, len(encoded), _CHUNK):
        found = read_prompt_spans(base, places, encoded[begin : begin + _CHUNK], progress=progress)
        if projection_FG is not None:
            narrow_MKG = (found.key_MKF.float() @ projection_FG).half()
            found = replace(found, key_MKF=narrow_MKG)
        parts.append(replace(found, row_M=found.row_M + begin))
    return join_spans(parts)
