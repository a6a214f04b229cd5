"""From the arguments of `scen submit` to those of the job: nothing in them depends on this host."""

import argparse
import json
from pathlib import Path
from typing import Any

from scen.cli.parser_edit import edit_options
from scen.cluster.sharding import read_deepspeed
from scen.config import Config, load_config, read_settings
from scen.data.files import locate
from scen.records import digest_json

_PATHS = ("file", "store", "locality", "profile", "base")
_WORDS = {"auto", "none"}  # of --profile


def job_arguments(args: argparse.Namespace) -> list[str]:
    """The words after `python -m scen_jobs.run_stream`: paths absolute, the settings file and the
    DeepSpeed configuration spelt out as `--set`. Raises ConfigError for settings that are wrong."""
    told = argparse.Namespace(**vars(args))
    for name in _PATHS:
        setattr(told, name, full_path(getattr(args, name), is_base=name == "base"))
    if args.config is not None:
        told.overrides, told.config = [*_spelt_out(args.config), *args.overrides], None
    told.overrides = [*told.overrides, *_of_here(load_config(overrides=told.overrides))]
    return _words(told)


def full_path(text: str | None, *, is_base: bool = False) -> str | None:
    """A path as seen from any folder; URIs, names of bases and of profiles stay."""
    if text is None or "://" in text or text in _WORDS:
        return text
    if is_base and not Path(text).expanduser().exists():
        return text
    return str(Path(text).expanduser().resolve())


def local_paths(args: argparse.Namespace) -> list[str]:
    """The paths among the arguments, which every node of the cluster must have."""
    full = [full_path(getattr(args, name), is_base=name == "base") for name in _PATHS]
    return [path for path in full if path is not None and path.startswith("/")]


def file_mark(uri: str) -> str:
    """What tells a file from its later self, as far as it can be seen from here."""
    location = locate(uri)
    try:
        info = location.filesystem.get_file_info(location.path)
    except OSError:
        return ""
    return digest_json([info.size, info.mtime_ns])


def _spelt_out(path: str) -> list[str]:
    """A settings file as `--set`, with the DeepSpeed configuration that it names in it."""
    found = read_settings(path)
    cluster = found.get("cluster")
    if isinstance(cluster, dict) and isinstance(cluster.get("deepspeed"), str):
        cluster["deepspeed"] = read_deepspeed(cluster["deepspeed"])
    return [f"{name}={json.dumps(value)}" for name, value in found.items()]


def _of_here(config: Config) -> list[str]:
    """What settings name that is found from this folder alone, as `--set`: base and profile by
    their full paths, the DeepSpeed configuration by what is in it."""
    base, profile, sharding = config.base.name, config.router.profile, config.cluster.deepspeed
    known = read_deepspeed(sharding) if isinstance(sharding, str) else sharding
    moved = {
        "base.name": (base, full_path(base, is_base=True)),
        "router.profile": (profile, full_path(profile)),
        "cluster.deepspeed": (sharding, known),
    }
    return [f"{name}={json.dumps(now)}" for name, (before, now) in moved.items() if now != before]


def _words(args: argparse.Namespace) -> list[str]:
    """The command line that parses to these values."""
    parser = argparse.ArgumentParser(add_help=False)
    edit_options(parser)
    words: list[str] = []
    for action in parser._actions:
        value: Any = getattr(args, action.dest)
        if value == action.default:
            continue
        if not action.option_strings:
            words.append(str(value))
        elif value is True:
            words.append(action.option_strings[0])
        else:
            each = value if isinstance(value, list) else [value]
            words += [f"{action.option_strings[0]}={one}" for one in each]
    return words
