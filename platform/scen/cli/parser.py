"""The words of the command line. Light: no command's machinery is imported for `--help`."""

import argparse

from scen import __version__
from scen.cli.options import (
    RAW,
    base_options,
    count,
    json_option,
    store_option,
)
from scen.cli.parser_benchmark import add_benchmark
from scen.cli.parser_calibrate import add_calibrate
from scen.cli.parser_drain import add_drain
from scen.cli.parser_edit import add_edit, add_rebase
from scen.cli.parser_eval import add_eval
from scen.cli.parser_gate import add_gate
from scen.cli.parser_jobs import add_jobs, add_stop, add_submit
from scen.cli.parser_life import add_life
from scen.cli.parser_register import add_register
from scen.cli.parser_report import add_report
from scen.cli.parser_serve import add_serve

_EPILOG = """\
a first try:
  scen demo                                      real edits on a real model, with a table
  scen edit edits.jsonl --store ./my-store       apply a file of edits
  scen ask "Who founded X?" --store ./my-store --base-answer
  scen log --store ./my-store                    what was committed, when, by whom and why
  scen revoke EDIT_ID --store ./my-store --why "the source was wrong"

exit codes: 0 fine, 1 failed, 2 wrong setting, 3 unusable input file, 4 base model,
5 not found, 6 another writer came first, 7 damaged store
"""
_EXPORT = """\
Each edit becomes a folder that peft, vLLM or LoRAX can load; index.jsonl tells which is for which
prompt, as no adapter knows. The platform's experts act from the last prompt token on: to have the
same answer, prefill the other tokens with the adapter off.

example:
  scen export --store ./my-store --edit mayor-paris --out ./adapters
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser of `scen`."""
    parser = argparse.ArgumentParser(
        prog="scen",
        description="Keep a language model's facts current: one small expert per edit, "
        "a base that never changes.",
        epilog=_EPILOG,
        formatter_class=RAW,
    )
    parser.add_argument("--version", action="version", version=f"scen {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_base(commands)
    add_edit(commands)
    _add_ask(commands)
    add_eval(commands)
    add_calibrate(commands)
    add_benchmark(commands)
    _add_collisions(commands)
    add_report(commands)
    add_life(commands)
    add_gate(commands)
    add_register(commands)
    add_rebase(commands)
    _add_export(commands)
    add_drain(commands)
    add_submit(commands)
    add_jobs(commands)
    add_stop(commands)
    add_serve(commands)
    _add_demo(commands)
    return parser


def _add_base(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    base = commands.add_parser("base", help="fetch, check and list base models")
    actions = base.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, text in (
        ("fetch", "download and prepare a base, so that the next start takes seconds"),
        ("info", "size, type, template and fingerprint of a base"),
    ):
        action = actions.add_parser(name, help=text, description=text)
        base_options(action)
        json_option(action)
    text = "bases that need no download: size, architecture, profile"
    json_option(actions.add_parser("list", help=text, description=text))
    text = "whether a base can be edited, and the memory that it takes; nothing large is downloaded"
    check = actions.add_parser("check", help=text, description=text)
    check.add_argument("base", metavar="BASE", help="a name, folder, .gguf file or hub id")
    json_option(check)


def _add_ask(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "ask the edited model, and see which edit answered"
    ask = commands.add_parser("ask", help=text, description=text)
    ask.add_argument("prompt", metavar="PROMPT")
    store_option(ask)
    ask.add_argument("--version", type=int, metavar="V", help="a ledger version (default: newest)")
    ask.add_argument("--base-answer", action="store_true", help="also show the unedited answer")
    ask.add_argument(
        "--explain", action="store_true", help="also show the likeliest edits and their scores"
    )
    ask.add_argument("--max-new-tokens", type=count, default=64, metavar="N")
    base_options(ask)
    json_option(ask)


def _add_collisions(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "pairs of edits whose prompts the router confuses"
    collisions = commands.add_parser("collisions", help=text, description=text)
    store_option(collisions)
    add = collisions.add_argument
    add("--margin", type=float, default=0.0, metavar="M",
        help="also pairs whose score is less than M below the threshold (default: 0)")  # fmt: skip
    add("--limit", type=count, metavar="N", help="the worst N pairs only")
    add("--version", type=int, metavar="V", help="a ledger version (default: newest)")
    json_option(collisions)


def _add_export(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "edits as LoRA adapters in PEFT's format, with an index"
    export = commands.add_parser(
        "export", help=text, description=text, epilog=_EXPORT, formatter_class=RAW
    )
    store_option(export)
    add = export.add_argument
    add("--out", required=True, metavar="DIR", help="a new folder")
    add("--edit", action="append", metavar="EDIT_ID", dest="edits",
        help="this one; may be repeated (default: all that are active)")  # fmt: skip
    add("--version", type=int, metavar="V", help="a ledger version (default: newest)")
    add("--format", choices=("peft",), default="peft", help="default: peft")
    json_option(export)


def _add_demo(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "32 real edits on SmolLM2-135M-Instruct, answers before and after (minutes on a CPU)"
    demo = commands.add_parser("demo", help=text, description=text)
    demo.add_argument("--store", default=".scen/demo", metavar="URI", help="default: .scen/demo")
    demo.add_argument("--edits", type=count, default=32, metavar="N", help="default: 32")
