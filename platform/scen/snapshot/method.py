"""What a store's method means for a base: layers and places as numbers, written once per store."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from scen.config import Config, ExpertConfig
from scen.errors import ConfigError
from scen.method import METHODS, Method
from scen.model.keys import KeyPlace
from scen.snapshot.base_profile import Profile

_TRAINING = ("steps", "lr", "stop_loss")


@dataclass(frozen=True)
class StoreMethod:
    """The part of the settings that all waves of a store share.

    `places` are those of the stored keys (scen-lr), `theta` the threshold of scen. `training` holds
    settings of `expert` for runs that do not name their own.
    """

    method: str
    layer: int
    rank: int
    places: tuple[KeyPlace, ...]
    theta: float | None
    training: Mapping[str, Any]

    @property
    def kind(self) -> Method:
        """What the method stores and how it routes."""
        return METHODS[self.method]

    def to_dict(self) -> dict[str, Any]:
        """As JSON types, for the store's manifest."""
        return asdict(self) | {"places": [asdict(place) for place in self.places]}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> "StoreMethod":
        """The method that `to_dict` wrote."""
        return cls(**{**value, "places": tuple(KeyPlace(**place) for place in value["places"])})

    def fill(self, expert: ExpertConfig) -> ExpertConfig:
        """The settings of a run, with the store's own where none are given."""
        return _fill(expert, self.training)


def resolve_method(config: Config, num_layers: int, profile: Profile | None = None) -> StoreMethod:
    """Fill in what depends on the base. Raises ConfigError where a layer does not exist."""
    kind = METHODS[config.method]
    expert = config.expert
    if kind.has_router and profile is not None:
        expert = _fill(expert, profile.expert)
    layer = expert.layer if expert.layer is not None else num_layers * 2 // 3
    places = _places(config, num_layers, profile) if kind.has_router else ()
    for name, index in [("expert.layer", layer), *(("router.places", p.layer) for p in places)]:
        if index >= num_layers:
            raise ConfigError(f"{name}: {index} is too large; the base has {num_layers} layers")
    if layer == num_layers - 1:
        raise ConfigError("expert.layer: the last layer cannot be edited; choose one below it")
    return StoreMethod(
        config.method,
        layer,
        expert.rank if kind.is_low_rank else 0,
        places,
        None if kind.has_router else config.router.theta,
        {name: getattr(expert, name) for name in _TRAINING},
    )


def stated_method(config: Config) -> dict[str, Any]:
    """What the settings say of a method that a store has already, as in `StoreMethod.to_dict`."""
    expert, router = config.expert, config.router
    stated: dict[str, Any] = {"method": config.method}
    if expert.layer is not None:
        stated["layer"] = expert.layer
    if not METHODS[config.method].has_router:
        return stated | ({"theta": router.theta} if "theta" in router.model_fields_set else {})
    if "rank" in expert.model_fields_set:
        stated["rank"] = expert.rank
    if router.places is not None:
        stated["places"] = [asdict(KeyPlace(p.layer, p.kind)) for p in router.places]
    return stated


def _fill(expert: ExpertConfig, found: Mapping[str, Any]) -> ExpertConfig:
    more = {name: found[name] for name in found if name not in expert.model_fields_set}
    return expert.model_copy(update=more)


def _places(config: Config, num_layers: int, profile: Profile | None) -> tuple[KeyPlace, ...]:
    if config.router.places is not None:
        return tuple(KeyPlace(place.layer, place.kind) for place in config.router.places)
    if profile is not None:
        return profile.router.encoder.places
    # Which entity shows early and in all words, which question late and in the last token.
    return KeyPlace(num_layers // 10, "mean"), KeyPlace(num_layers * 4 // 5, "last")
