"""Options that several commands share, and how their values are read."""

import argparse
from datetime import UTC, datetime

RAW = argparse.RawDescriptionHelpFormatter


def count(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def store_option(parser: argparse.ArgumentParser) -> None:
    """--store."""
    parser.add_argument(
        "--store", required=True, metavar="URI", help="folder or URI of the edited model"
    )


def base_options(parser: argparse.ArgumentParser) -> None:
    """Which base model, and how it is loaded."""
    group = parser.add_argument_group("base model")
    group.add_argument(
        "--base",
        metavar="NAME",
        help="smollm2-135m-instruct, a hub id, a folder or a .gguf file "
        "(default: the store's own, else smollm2-135m-instruct)",
    )
    loading_options(group)


def loading_options(group: argparse._ActionsContainer) -> None:
    """How a base model is loaded."""
    group.add_argument("--template", choices=("auto", "chat", "llama2-inst", "raw"))
    group.add_argument("--dtype", choices=("auto", "float32", "bfloat16", "float16"))
    group.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: a GPU where there is one)")


def config_options(parser: argparse.ArgumentParser) -> None:
    """--config and --set."""
    group = parser.add_argument_group("settings")
    group.add_argument("--config", metavar="FILE", help="YAML file of settings (see configs/)")
    group.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="A.B=VALUE",
        dest="overrides",
        help="one setting, such as expert.steps=15; may be repeated",
    )


def json_option(parser: argparse.ArgumentParser) -> None:
    """--json."""
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")


def moment(text: str) -> datetime:
    """A date or a moment in ISO form; UTC where it names no time zone."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError as err:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a date or moment, such as 2026-11-01 or 2026-11-01T12:00+01:00"
        ) from err
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def share(text: str) -> float:
    """A number between 0 and 1."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 0 and 1, such as 0.02")
    return value
