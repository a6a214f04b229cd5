"""The editing method of a store (layer, rank, places), and profiles of bases."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError

from scen.config import Config, ExpertConfig
from scen.errors import ConfigError
from scen.method import METHODS, Method
from scen.model.base import Base
from scen.model.keys import KeyPlace
from scen.records import digest_bytes
from scen.routing.router import Router

FORMAT = 1


@dataclass(frozen=True)
class Profile:
    """A calibrated profile of a base. `base` holds its name and fingerprint, `expert` the tuned
    settings of `expert.*` (layer, rank, lr, steps ...), `calibration` the data and results."""

    base: Mapping[str, Any]
    expert: Mapping[str, Any]
    router: Router
    calibration: Mapping[str, Any]


def save_profile(profile: Profile, path: Path) -> None:
    """Write PATH (.json) and, before it, the tensors that it names, to a file next to it."""
    tensors = {n: t.contiguous() for n, t in profile.router.tensors().items()}
    data = safetensors.torch.save(tensors)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".safetensors").write_bytes(data)
    facts = {
        "format": FORMAT,
        "base": dict(profile.base),
        "expert": dict(profile.expert),
        "router": {"file": path.with_suffix(".safetensors").name, "sha256": digest_bytes(data)},
        "calibration": dict(profile.calibration),
    }
    path.write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def load_profile(path: Path) -> Profile:
    """The profile of a file. Raises ConfigError if it cannot be read or is damaged."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        if facts["format"] != FORMAT:
            raise ConfigError(f"router.profile: {path} has format {facts['format']}, not {FORMAT}")
        data = (path.parent / facts["router"]["file"]).read_bytes()
        if digest_bytes(data) != facts["router"]["sha256"]:
            raise ConfigError(f"router.profile: the tensors of {path} do not match its sha256")
        router = Router.from_tensors(safetensors.torch.load(data))
        return Profile(facts["base"], facts["expert"], router, facts["calibration"])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as err:
        raise ConfigError(
            f"router.profile: cannot read {path} ({err}); `scen calibrate --out FILE` makes one"
        ) from err


def find_profile(setting: str, base: Base) -> Profile | None:
    """The profile of a base: that of a file, or with `auto` the one that ships with the platform.

    None with `none`, or if none ships. Raises ConfigError if a file is of another base.
    """
    if setting == "none":
        return None
    if setting == "auto":
        for path in shipped_profiles():
            if json.loads(path.read_text())["base"]["fingerprint"] == base.fingerprint:
                return load_profile(path)
        return None
    profile = load_profile(Path(setting))
    if profile.base["fingerprint"] != base.fingerprint:
        raise ConfigError(
            f"router.profile: {setting} was made for {profile.base['name']} "
            f"({profile.base['template']}), not for {base.name} ({base.template.name})"
        )
    return profile


def shipped_profiles() -> list[Path]:
    """The profiles that ship with the package."""
    return sorted(Path(str(files("scen.profiles"))).glob("*.json"))


_TRAINING = ("steps", "lr", "stop_loss")


@dataclass(frozen=True)
class StoreMethod:
    """The settings that all waves of a store share.

    `places` are those of the stored keys (scen-lr), `theta` is the threshold of scen. `training`
    holds default settings of `expert` for runs that do not set their own. `bits` are those of a
    number of a stored expert; with `raw_keys` bundles hold raw keys instead of compact ones. The
    defaults of the two are those of stores of format 2, which do not state them.
    """

    method: str
    layer: int
    rank: int
    places: tuple[KeyPlace, ...]
    theta: float | None
    training: Mapping[str, Any]
    bits: int = 16
    raw_keys: bool = True

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
        """The settings of a run, with the defaults of the store for those that are not set."""
        return _fill(expert, self.training)


def resolve_method(config: Config, num_layers: int, profile: Profile | None = None) -> StoreMethod:
    """The method of a new store, with defaults for its base. Raises ConfigError if a layer does not
    exist."""
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
        expert.bits if kind.is_low_rank else 32,
        config.router.raw_keys or not kind.has_router,
    )


def stated_method(config: Config) -> dict[str, Any]:
    """The parts of a method that the settings set explicitly, as in `StoreMethod.to_dict`."""
    expert, router = config.expert, config.router
    stated: dict[str, Any] = {"method": config.method}
    if expert.layer is not None:
        stated["layer"] = expert.layer
    if not METHODS[config.method].has_router:
        return stated | ({"theta": router.theta} if "theta" in router.model_fields_set else {})
    if "rank" in expert.model_fields_set:
        stated["rank"] = expert.rank
    if "bits" in expert.model_fields_set:
        stated["bits"] = expert.bits
    if "raw_keys" in router.model_fields_set:
        stated["raw_keys"] = router.raw_keys
    if router.places is not None:
        stated["places"] = [asdict(KeyPlace(p.layer, p.kind)) for p in router.places]
    return stated


def _fill(expert: ExpertConfig, defaults: Mapping[str, Any]) -> ExpertConfig:
    unset = {name: defaults[name] for name in defaults if name not in expert.model_fields_set}
    return expert.model_copy(update=unset)


def _places(config: Config, num_layers: int, profile: Profile | None) -> tuple[KeyPlace, ...]:
    if config.router.places is not None:
        return tuple(KeyPlace(place.layer, place.kind) for place in config.router.places)
    if profile is not None:
        return profile.router.encoder.places
    # The entity is encoded in early layers at all words, the question in late layers at the last
    # token.
    return KeyPlace(num_layers // 10, "mean"), KeyPlace(num_layers * 4 // 5, "last")
