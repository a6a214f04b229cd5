"""What a request asks of the plugin, as plain values in `SamplingParams.extra_args["scen"]`.

Also the settings of a model that is loaded for edits.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypedDict, cast

from scen.model.keys import KeyKind, KeyPlace
from scen.records import EncodedPrompt


class Wish(TypedDict, total=False):
    """Either keys or an expert.

    `key` is the name under which the prompt's keys are sent, `spans` are the half-open token
    ranges over which they are averaged (the user's own words first, then the routed spans), and
    `last` is the position of the last prompt token.

    The expert named `expert` (content-addressed), held in `slot`, acts from position `start` on.
    """

    key: str
    spans: list[list[int]]
    last: int
    expert: str
    slot: int
    start: int


_NONE: Wish = {}


def wish_of(params: Any) -> Wish:
    """The wish in a request's SamplingParams (None for a pooling request); empty if it has none."""
    extra = None if params is None else params.extra_args
    return cast(Wish, extra.get("scen", _NONE)) if extra else _NONE


def key_wish(name: str, prompt: EncodedPrompt, num_spans: int | None) -> Wish:
    """The wish for the keys of a prompt and of its first `num_spans` spans (None: of all)."""
    spans = routed_spans(prompt)[:num_spans]
    ranges = [list(span) for span in (prompt.own, *spans)]
    return {"key": name, "spans": ranges, "last": len(prompt.ids) - 1}


def routed_spans(prompt: EncodedPrompt) -> tuple[tuple[int, int], ...]:
    """The spans of a prompt that are compared with edits: never empty ones, the message first."""
    return tuple(span for span in prompt.spans or (prompt.own,) if span[1] > span[0])


def first_read(wish: Wish) -> int:
    """The first position whose hidden states a wish for keys needs."""
    return min([wish["last"], *(begin for begin, _ in wish["spans"])])


@dataclass(frozen=True)
class Settings:
    """The store's method, as the plugin needs it: the edited layer, the places of keys, the rank of
    experts (0: whole matrices, which act on the whole prompt) and the number of slots."""

    layer: int
    places: tuple[tuple[int, KeyKind], ...]
    rank: int
    slots: int

    @classmethod
    def of(cls, layer: int, places: Sequence[KeyPlace], rank: int, slots: int) -> "Settings":
        """The settings for these places."""
        return cls(layer, tuple((place.layer, place.kind) for place in places), rank, slots)

    @classmethod
    def find(cls, additional_config: object) -> "Settings | None":
        """The settings within vLLM's `additional_config`; None if it has none."""
        fields = additional_config.get("scen") if isinstance(additional_config, Mapping) else None
        if fields is None:
            return None
        places = tuple((layer, kind) for layer, kind in fields["places"])
        return cls(fields["layer"], places, fields["rank"], fields["slots"])

    def config(self) -> dict[str, Any]:
        """As JSON types, for `additional_config`."""
        return asdict(self) | {"places": [list(place) for place in self.places]}
