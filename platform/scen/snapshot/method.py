"""What a store's method means for a base: layers and places as numbers, written once per store."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from scen.config import Config
from scen.editor.neurons import KeyPlace
from scen.errors import ConfigError


@dataclass(frozen=True)
class StoreMethod:
    """The part of the settings that all waves of a store share. `gate` is the threshold of
    scen-lr, or theta of scen."""

    method: str
    layer: int
    rank: int
    places: tuple[KeyPlace, ...]
    gate: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON types, for the store's manifest."""
        return asdict(self) | {"places": [asdict(place) for place in self.places]}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> "StoreMethod":
        """The method that `to_dict` wrote."""
        return cls(**{**value, "places": tuple(KeyPlace(**place) for place in value["places"])})


def resolve_method(config: Config, num_layers: int) -> StoreMethod:
    """Fill in what depends on the base. Raises ConfigError where a layer does not exist."""
    is_paper = config.method == "scen"
    layer = config.expert.layer if config.expert.layer is not None else num_layers * 2 // 3
    places = _places(config, num_layers) if not is_paper else ()
    for name, index in [("expert.layer", layer), *(("router.places", p.layer) for p in places)]:
        if index >= num_layers:
            raise ConfigError(f"{name}: {index} is too large; the base has {num_layers} layers")
    if layer == num_layers - 1:
        raise ConfigError("expert.layer: the last layer cannot be edited; choose one below it")
    gate = config.router.theta if is_paper else config.router.threshold
    rank = 0 if is_paper else config.expert.rank
    return StoreMethod(config.method, layer, rank, places, gate)


def _places(config: Config, num_layers: int) -> tuple[KeyPlace, ...]:
    if config.router.places is not None:
        return tuple(KeyPlace(place.layer, place.kind) for place in config.router.places)
    # Which entity shows early and in all words, which question late and in the last token.
    return KeyPlace(num_layers // 10, "mean"), KeyPlace(num_layers * 4 // 5, "last")
