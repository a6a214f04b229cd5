"""The words of the command line. Light: no command's machinery is imported for `--help`."""

import argparse

from scen import __version__

_EPILOG = """\
a first try:
  scen demo                                      real edits on a real model, with a table
  scen edit edits.jsonl --store ./my-store       apply a file of edits
  scen ask "Who founded X?" --store ./my-store --base-answer
  scen log --store ./my-store                    what was committed, when

exit codes: 0 fine, 1 failed, 2 wrong setting, 3 unusable input file, 4 base model,
5 not found, 6 another writer came first, 7 damaged store
"""
_EDIT_EPILOG = """\
FILE is JSONL, CSV or Parquet with at least `prompt` and `target`, or a ZsRE, KnowEdit, CounterFact
or SelfCheckGPT file; a path or a URI such as s3://bucket/edits.parquet. Rows that cannot be used go
to a quarantine Parquet with the reason, the others proceed. A run that was killed is run again with
the same command: nothing is lost and nothing is done twice.

examples:
  scen edit edits.jsonl --store ./my-store
  scen edit edits.parquet --store ./my-store --wave-size 500 --strict
  scen edit edits.jsonl --store ./paper-store --method scen --base meta-llama/Llama-2-7b-hf \\
       --config configs/llama2-7b-zsre.yaml
"""
_RAW = argparse.RawDescriptionHelpFormatter


def build_parser() -> argparse.ArgumentParser:
    """The parser of `scen`."""
    parser = argparse.ArgumentParser(
        prog="scen",
        description="Keep a language model's facts current: one small expert per edit, "
        "a base that never changes.",
        epilog=_EPILOG,
        formatter_class=_RAW,
    )
    parser.add_argument("--version", action="version", version=f"scen {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_base(commands)
    _add_edit(commands)
    _add_ask(commands)
    _add_eval(commands)
    _add_log(commands)
    _add_show(commands)
    _add_demo(commands)
    return parser


def _add_base(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    base = commands.add_parser("base", help="fetch a base model, or show which one it is")
    actions = base.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, text in (
        ("fetch", "download and prepare a base, so that the next start takes seconds"),
        ("info", "size, type, template and fingerprint of a base"),
    ):
        action = actions.add_parser(name, help=text, description=text)
        _base_options(action)
        _json_option(action)


def _add_edit(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "train, measure and commit the edits of a file"
    edit = commands.add_parser(
        "edit", help=text, description=text, epilog=_EDIT_EPILOG, formatter_class=_RAW
    )
    edit.add_argument("file", metavar="FILE", help="the edits")
    _store_option(edit)
    edit.add_argument(
        "--method",
        choices=("scen-lr", "scen"),
        help="scen-lr: low-rank experts, whitened keys (default); scen: the paper's procedure",
    )
    edit.add_argument("--wave-size", type=_count, metavar="N", help="edits per wave (default 200)")
    edit.add_argument("--limit", type=_count, metavar="N", help="take the first N valid edits only")
    edit.add_argument("--stream", help="name of the stream (default: from the file's name)")
    edit.add_argument(
        "--format",
        default="auto",
        choices=("auto", "scen", "zsre", "knowedit", "counterfact", "hallucination"),
        help="form of the rows (default: recognised)",
    )
    edit.add_argument("--strict", action="store_true", help="refuse the file for one bad row")
    edit.add_argument(
        "--locality", metavar="FILE", help="prompts that no edit may change (default: a sample)"
    )
    edit.add_argument("--no-tracking", action="store_true", help="do not write to MLflow")
    _base_options(edit)
    _config_options(edit)
    _json_option(edit)


def _add_ask(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "ask the edited model, and see which edit answered"
    ask = commands.add_parser("ask", help=text, description=text)
    ask.add_argument("prompt", metavar="PROMPT")
    _store_option(ask)
    ask.add_argument("--version", type=int, metavar="V", help="a ledger version (default: newest)")
    ask.add_argument("--base-answer", action="store_true", help="also show the unedited answer")
    ask.add_argument("--max-new-tokens", type=_count, default=64, metavar="N")
    _base_options(ask)
    _json_option(ask)


def _add_eval(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "measure all committed edits, or those of a file, on the newest version"
    evaluation = commands.add_parser("eval", help=text, description=text)
    _store_option(evaluation)
    evaluation.add_argument("--edits", metavar="FILE", help="measure these (default: the ledger's)")
    evaluation.add_argument(
        "--locality", metavar="FILE", help="prompts that no edit may change (default: a sample)"
    )
    evaluation.add_argument("--version", type=int, metavar="V", help="a ledger version")
    evaluation.add_argument("--limit", type=_count, metavar="N", help="the first N edits only")
    _base_options(evaluation)
    _config_options(evaluation)
    _json_option(evaluation)


def _add_log(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "the commits of a store, oldest first"
    log = commands.add_parser("log", help=text, description=text)
    _store_option(log)
    _json_option(log)


def _add_show(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "everything that is known of one edit"
    show = commands.add_parser("show", help=text, description=text)
    show.add_argument("edit_id", metavar="EDIT_ID")
    _store_option(show)
    _json_option(show)


def _add_demo(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "32 real edits on SmolLM2-135M-Instruct, answers before and after (minutes on a CPU)"
    demo = commands.add_parser("demo", help=text, description=text)
    demo.add_argument("--store", default=".scen/demo", metavar="URI", help="default: .scen/demo")
    demo.add_argument("--edits", type=_count, default=32, metavar="N", help="default: 32")


def _count(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _store_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--store", required=True, metavar="URI", help="folder or URI of the edited model"
    )


def _base_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("base model")
    group.add_argument(
        "--base",
        metavar="NAME",
        help="smollm2-135m-instruct, a hub id, a folder or a .gguf file "
        "(default: the store's own, else smollm2-135m-instruct)",
    )
    group.add_argument("--template", choices=("auto", "chat", "llama2-inst", "raw"))
    group.add_argument("--dtype", choices=("auto", "float32", "bfloat16", "float16"))
    group.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: a GPU where there is one)")


def _config_options(parser: argparse.ArgumentParser) -> None:
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


def _json_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
