"""The words of `scen edit`."""

import argparse

from scen.cli.options import (
    RAW,
    base_options,
    config_options,
    count,
    json_option,
    loading_options,
    store_option,
)

_EPILOG = """\
FILE is JSONL, CSV or Parquet with at least `prompt` and `target`, or a ZsRE, KnowEdit, CounterFact
or SelfCheckGPT file; a path or a URI such as s3://bucket/edits.parquet. Rows that cannot be used go
to a quarantine Parquet with the reason, the others proceed. A run that was killed is run again with
the same command: nothing is lost and nothing is done twice.

Near-duplicates are edits whose prompts the router takes to another edit as well. They are told of
when their wave was measured, and by --dry-run before anything is trained; with
waves.on_collision=quarantine they are set aside before that.

examples:
  scen edit edits.jsonl --store ./my-store
  scen edit edits.parquet --store ./my-store --wave-size 500 --strict
  scen edit corrections.jsonl --store ./my-store --on-conflict supersede --dry-run --answers
  scen edit edits.jsonl --store ./my-store --set waves.on_collision=quarantine
  scen edit corrections.jsonl --store ./my-store --on-conflict supersede --why "new mayors"
  scen edit edits.jsonl --store ./paper-store --method scen --base meta-llama/Llama-2-7b-hf \\
       --config configs/llama2-7b-zsre.yaml
"""


_REBASE = """\
Trains all edits that are active in the store OLD (or were at --version) anew on another base, from
what its ledger tells, and commits them to the store NEW under their own ids and streams. OLD is
only read. A run that was killed is run again with the same words.

To erase edits for good, text and all, rebase to the base of OLD --without them (with the --profile
and settings that OLD was made with, if any), serve NEW, and delete OLD, its backups, and the runs
of its streams in MLflow: a ledger forgets nothing. Edits that are not active stay behind anyhow.

examples:
  scen rebase ./my-store --to ./smollm2-finetuned --store ./my-next-store
  scen rebase s3://bucket/llama2 --to meta-llama/Llama-3.2-1B --store s3://bucket/llama3 \\
       --profile llama3.json
  scen rebase ./my-store --to smollm2-135m-instruct --store ./my-next-store --without mayor-paris
"""


def add_edit(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`scen edit`."""
    text = "train, measure and commit the edits of a file"
    edit = commands.add_parser(
        "edit", help=text, description=text, epilog=_EPILOG, formatter_class=RAW
    )
    edit_options(edit)
    edit.add_argument(
        "--dry-run",
        action="store_true",
        help="tell what would be admitted, replaced and refused, which prompts the router would "
        "confuse, and how long it would take",
    )
    dry = edit.add_argument_group("with --dry-run")
    dry.add_argument(
        "--answers",
        type=count,
        nargs="?",
        const=20,
        default=0,
        metavar="N",
        help="also the current answers to the prompts of the first N edits (20 where N is left "
        "out), beside the new ones",
    )
    dry.add_argument(
        "--no-base",
        action="store_true",
        help="go by the ledger alone, without loading the store's base: prompts are not compared "
        "by the router's keys, and lengths in tokens are not checked",
    )
    json_option(edit)


def edit_options(edit: argparse.ArgumentParser) -> None:
    """FILE and everything that says what is done with it."""
    edit.add_argument("file", metavar="FILE", help="the edits")
    wave_options(edit)
    edit.add_argument("--limit", type=count, metavar="N", help="take the first N valid edits only")
    edit.add_argument("--stream", help="name of the stream (default: from the file's name)")
    edit.add_argument(
        "--format",
        default="auto",
        choices=("auto", "scen", "zsre", "knowedit", "counterfact", "hallucination"),
        help="form of the rows (default: recognised)",
    )
    edit.add_argument("--strict", action="store_true", help="refuse the file for one bad row")
    base_options(edit)
    config_options(edit)


def wave_options(parser: argparse.ArgumentParser) -> None:
    """Where edits go, and how they are cut into waves, trained, measured and told of."""
    store_option(parser)
    add = parser.add_argument
    add(
        "--method",
        choices=("scen-lr", "scen"),
        help="scen-lr: low-rank experts, whitened keys (default); scen: the paper's procedure",
    )
    add(
        "--profile",
        metavar="FILE",
        help="what `scen calibrate` found for the base (default: auto, the one that ships for it, "
        "if any; none: without)",
    )
    add("--wave-size", type=count, metavar="N", help="edits per wave (default 200)")
    add(
        "--on-conflict",
        choices=("quarantine", "supersede", "refuse"),
        help="an edit that contradicts an earlier one (same prompt, or same subject and relation, "
        "and another target): quarantine it (default), let it supersede the earlier one, or refuse "
        "its wave and end there",
    )
    add("--why", metavar="TEXT", help="a reason, told in the log with each wave")
    add("--who", metavar="NAME", help="told in the log (default: your user name)")
    add("--locality", metavar="FILE", help="prompts that no edit may change (default: a sample)")
    add("--no-tracking", action="store_true", help="do not write to MLflow")


def add_rebase(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`scen rebase`."""
    text = "train the active edits of a store anew on another base"
    rebase = commands.add_parser(
        "rebase", help=text, description=text, epilog=_REBASE, formatter_class=RAW
    )
    rebase.add_argument("old", metavar="OLD", help="the store whose edits are taken")
    rebase.add_argument(
        "--to",
        required=True,
        dest="base",
        metavar="BASE",
        help="the other base: a hub id, a folder or a .gguf file",
    )
    rebase.add_argument("--version", type=int, metavar="V", help="of OLD (default: the newest)")
    rebase.add_argument(
        "--without",
        action="append",
        default=[],
        metavar="EDIT_ID",
        help="leave this edit behind; may be repeated",
    )
    wave_options(rebase)
    loading_options(rebase.add_argument_group("base model"))
    config_options(rebase)
    json_option(rebase)
