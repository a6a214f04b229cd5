"""The editing method of a store (layer, rank, places), and profiles of bases."""

import fcntl
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
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
from scen.model.weights import cache_root, make_cache
from scen.records import digest_bytes
from scen.routing.router import Router

FORMAT = 1

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Profile:
    """A calibrated profile of a base. `base` holds its name and fingerprint, `expert` the tuned
    settings of `expert.*` (layer, rank, lr, steps ...), `calibration` the data and results, and
    `how` it was made: quick, full or store. `source` is where it is from: shipped, cache, file or
    store."""

    base: Mapping[str, Any]
    expert: Mapping[str, Any]
    router: Router
    calibration: Mapping[str, Any]
    source: str = "file"

    def is_of(self, base: Base) -> bool:
        """True if it was made for this base, or taken over for it after a check."""
        return bool(self.base["fingerprint"] == base.fingerprint)

    def describe(self) -> dict[str, Any]:
        """How it was made, for the manifest of a store (`StoreManifest.profile`)."""
        about = self.calibration
        made = {name: about[name] for name in ("made", "taken_from") if name in about}
        return made | {
            "how": about.get("how", "full"),
            "source": self.source,
            "edits": sum(int(part.get("edits", 0)) for part in about.get("edits", ())),
            "bound": self.router.bound,
            "figures": summarise_figures(about.get("figures", {})),
        }


def summarise_figures(figures: Mapping[str, Any]) -> dict[str, float]:
    """Of `HeldFigures.to_dict`: the shares of rephrases that reached their edit, and of given near
    misses and questions without an edit that reached none; absent ones are left out."""
    kinds = figures.get("kinds", ())
    rephrases = [k for k in kinds if k["kind"].startswith("rephrases") and k["count"]]
    summary: dict[str, float] = {}
    if total := sum(kind["count"] for kind in rephrases):
        right = sum(kind["right"] * kind["count"] for kind in rephrases)
        summary["rephrases"] = round(right / total, 4)
    for kind in kinds:
        if kind["kind"] == "near misses, given" and kind["count"]:
            summary["near_misses"] = round(1 - kind["wrong"], 4)
        if kind["kind"] == "same kind, edit absent" and kind["count"]:
            summary["same_kind"] = round(1 - kind["wrong"], 4)
    return summary


NO_PROFILE: Mapping[str, Any] = {"how": "none", "source": "none"}
"""The description of a router that was not calibrated."""


def save_profile(profile: Profile, path: Path) -> None:
    """Write PATH (.json) and, before it, the tensors that it names, to a file next to it. Each file
    appears whole or not at all."""
    tensors = {n: t.contiguous() for n, t in profile.router.tensors().items()}
    data = safetensors.torch.save(tensors)
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path.with_suffix(".safetensors"), data)
    facts = {
        "format": FORMAT,
        "base": dict(profile.base),
        "expert": dict(profile.expert),
        "router": {"file": path.with_suffix(".safetensors").name, "sha256": digest_bytes(data)},
        "calibration": dict(profile.calibration),
    }
    _write(path, (json.dumps(facts, indent=1, ensure_ascii=False) + "\n").encode())


def _write(path: Path, data: bytes) -> None:
    part = path.with_name(f"{path.name}.{os.getpid()}")
    part.write_bytes(data)
    part.replace(path)


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


SOURCES = ("auto", "shipped", "none")
"""Values of the setting `router.profile` that are not files."""


def profile_setting(config: Config) -> str:
    """The setting `router.profile`; the environment variable SCEN_PROFILE replaces `auto`."""
    setting = config.router.profile
    return os.environ.get("SCEN_PROFILE", setting) if setting == "auto" else setting


def find_profile(setting: str, base: Base) -> Profile | None:
    """The profile of a base: that of a file, or with `shipped` the one that ships with the
    platform; with `auto` that one, or the one that was made on first use of the base.

    None with `none`, or if there is none. That of a file may be of another base: `Profile.is_of`.
    Raises ConfigError if a file cannot be read.
    """
    if setting == "none":
        return None
    if setting in SOURCES:
        for path in shipped_profiles():
            if json.loads(path.read_text())["base"]["fingerprint"] == base.fingerprint:
                return replace(load_profile(path), source="shipped")
        return read_cached_profile(base.fingerprint) if setting == "auto" else None
    return load_profile(Path(setting))


def known_profiles() -> Iterator[Profile]:
    """The profiles of all bases: those that ship, and those in the user's cache."""
    for path in shipped_profiles():
        yield replace(load_profile(path), source="shipped")
    for path in sorted(cache_root().glob(f"profiles/*/{_CACHED}")):
        if (profile := read_cached_profile(path.parent.name)) is not None:
            yield profile


_CACHED = "profile.json"


def read_cached_profile(fingerprint: str) -> Profile | None:
    """The profile of a base in the user's cache; None if there is none that can be read."""
    path = cache_root() / "profiles" / fingerprint / _CACHED
    if not path.exists():
        return None
    try:
        return replace(load_profile(path), source="cache")
    except ConfigError as err:
        _log.warning("%s; it is made again", err)
        return None


@contextmanager
def making_profile(fingerprint: str) -> Iterator[Path]:
    """Where to write the profile of a base in the user's cache. Other processes that want to make
    the same one wait until this block ends, and then find it. Raises BaseError."""
    folder = make_cache("profiles") / fingerprint
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        # Released by the system if this process dies. Where files cannot be locked, two processes
        # do the same work, and the last one wins.
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder / _CACHED


def shipped_profiles() -> list[Path]:
    """The profiles that ship with the package."""
    return sorted((Path(str(files("scen"))) / "profiles").glob("*.json"))


def profiled_bases() -> dict[str, str]:
    """How the profile of each base that has one was made, by name: shipped, or made on this machine
    (quick)."""
    cached = sorted((cache_root() / "profiles").glob(f"*/{_CACHED}"))
    known = [(path, "quick") for path in cached] + [
        (path, "shipped") for path in shipped_profiles()
    ]
    return {json.loads(path.read_text())["base"]["name"]: how for path, how in known}


def describe_profile(about: Mapping[str, Any]) -> str:
    """One line on how a router was made (see `StoreManifest.profile`)."""
    how = about.get("how")
    if how is None:
        return "made by an earlier release"
    if how == "none":
        return "not calibrated"
    origin = {"file": "of a file", "shipped": "shipped", "store": "on the store's own edits"}
    parts = [f"calibrated ({how}{', ' + origin[s] if (s := about['source']) in origin else ''})"]
    parts += [f"on {about['edits']} edits"] if about.get("edits") else []
    parts += [f"on {about['made']}"] if "made" in about else []
    return " ".join(parts)


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
