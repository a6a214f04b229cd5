"""A profile: what calibration found for a base. Two files: settings and figures as JSON, the
router's tensors as safetensors beside it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError

from scen.errors import ConfigError
from scen.model.base import Base
from scen.records import digest_bytes
from scen.routing.router import Router

FORMAT = 1


@dataclass(frozen=True)
class Profile:
    """`base` names the base and its fingerprint; `expert` are settings of `expert.*` that were
    found to work (layer, rank, lr, steps ...); `calibration` says on what, and what came of it."""

    base: Mapping[str, Any]
    expert: Mapping[str, Any]
    router: Router
    calibration: Mapping[str, Any]


def save_profile(profile: Profile, path: Path) -> None:
    """Write PATH.json and the tensors beside it; tensors first, so that what is named is there."""
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
    """The profile of a file. Raises ConfigError where it cannot be read or is damaged."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        if facts["format"] != FORMAT:
            raise ConfigError(f"router.profile: {path} has format {facts['format']}, not {FORMAT}")
        data = (path.parent / facts["router"]["file"]).read_bytes()
        if digest_bytes(data) != facts["router"]["sha256"]:
            raise ConfigError(f"router.profile: the tensors of {path} are not those it was made of")
        router = Router.from_tensors(safetensors.torch.load(data))
        return Profile(facts["base"], facts["expert"], router, facts["calibration"])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as err:
        raise ConfigError(
            f"router.profile: cannot read {path} ({err}); `scen calibrate --out FILE` makes one"
        ) from err


def find_profile(setting: str, base: Base) -> Profile | None:
    """The profile of a base: a file, or with `auto` the one that ships with the platform.

    None with `none`, or where none ships. Raises ConfigError where a file is not of this base.
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
    """The profiles in the package."""
    return sorted(Path(str(files("scen.profiles"))).glob("*.json"))
