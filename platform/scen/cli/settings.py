"""From arguments to a config."""

import argparse
from typing import Any

from scen.config import Config, load_config


def read_config(args: argparse.Namespace, method: str | None = None) -> Config:
    """Settings file, `--set`, then flags. Raises ConfigError naming the field."""
    fixed: dict[str, Any] = {}
    base = {
        "name": getattr(args, "base", None),
        "template": getattr(args, "template", None),
        "dtype": getattr(args, "dtype", None),
        "device": getattr(args, "device", None),
    }
    fixed["base"] = {name: value for name, value in base.items() if value is not None}
    if method is not None:
        fixed["method"] = method
    waves = {
        "size": getattr(args, "wave_size", None),
        "max_age_s": getattr(args, "max_age", None),
        "on_conflict": getattr(args, "on_conflict", None),
        "why": getattr(args, "why", None),
        "who": getattr(args, "who", None),
    }
    fixed["waves"] = {name: value for name, value in waves.items() if value is not None}
    if getattr(args, "profile", None) is not None:
        fixed["router"] = {"profile": args.profile}
    return load_config(getattr(args, "config", None), getattr(args, "overrides", ()), fixed)
