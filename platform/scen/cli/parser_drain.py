"""The words of `scen drain`."""

import argparse

from scen.cli.options import RAW, base_options, config_options, json_option
from scen.cli.parser_edit import wave_options

_EPILOG = """\
Edits that are handed in one by one (POST /v1/edits of `scen serve`) wait under STORE/inbox/STREAM.
This command makes waves of them as they come: as soon as --wave-size (or waves.max_bytes) is
reached, or the oldest has waited for --max-age seconds. It runs until it is stopped, and may be
killed at any instant: run it again and it goes on. What cannot be learned, or contradicts an
earlier edit, is set aside with the reason (GET /v1/edits/ID tells it).

examples:
  scen drain --store ./my-store --on-conflict supersede
  scen drain --store ./my-store --stream news --max-age 60 --wave-size 500
  scen drain --store ./my-store --once               what waits now, then end; for a timer
"""


def add_drain(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`scen drain`."""
    text = "train, measure and commit the edits that were handed in over HTTP, as they come"
    drain = commands.add_parser(
        "drain", help=text, description=text, epilog=_EPILOG, formatter_class=RAW
    )
    drain_options(drain)
    json_option(drain)


def drain_options(drain: argparse.ArgumentParser) -> None:
    """Which edits, when, and what is done with them."""
    drain.add_argument("--stream", default="online", help="whose inbox (default: %(default)s)")
    drain.add_argument(
        "--max-age",
        type=float,
        metavar="S",
        help="seconds that an edit waits for others to fill its wave (default: 5)",
    )
    drain.add_argument("--once", action="store_true", help="take what waits now, and end")
    wave_options(drain)
    base_options(drain)
    config_options(drain)
