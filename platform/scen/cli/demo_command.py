"""`scen demo`: real edits on a real model, answers before and after."""

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

from scen.cli.demo_serving import show_served
from scen.cli.output import out, say, show_warnings
from scen.cli.render import answer_table, report_table
from scen.cli.runtime import RUNTIME
from scen.config import load_config
from scen.errors import ScenError
from scen.fs import Storage
from scen.model.fetch import EMBEDDED_NAME
from scen.pipeline.apply import EditJob, EditReport, apply_edits
from scen.samples import sample_path
from scen.tracking.client import ui_command

_SHOWN_EDITS, _SHOWN_OTHERS = 6, 3


def run(args: argparse.Namespace) -> None:
    """Edit SmolLM2 with the first ZsRE edits of the sample, show what came of it, and serve it."""
    show_warnings()
    say(f"{args.edits} real edits: 3 to 6 minutes on 2 CPU cores, seconds when they are committed")
    storage = Storage(args.store)
    job = EditJob(str(sample_path("zsre_edits.jsonl")), stream="demo", limit=args.edits)
    config = load_config(fixed={"base": {"name": EMBEDDED_NAME}})
    report, _ = apply_edits(job, storage, config, RUNTIME)
    if not report.waves:
        raise ScenError(f"demo: {args.store} holds these edits from another run; delete it")
    evaluated = report.waves[-1].evaluated
    lines = storage.read(evaluated["per_edit_path"]).decode().splitlines()
    rows = [json.loads(line) for line in lines]
    out.print(answer_table(_some(rows)))
    out.print(report_table(evaluated["report"], f"{report.waves[-1].num_edits} edits"))
    show_served(args.store, [row["prompt"] for row in _some(rows)[::2]])
    _show_places(args.store, report)


def _some(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A few of each kind: edits, their rephrases, unrelated prompts."""
    kinds = {"reliability": _SHOWN_EDITS, "generality": _SHOWN_OTHERS, "locality": _SHOWN_OTHERS}
    return [
        row
        for kind, count in kinds.items()
        for row in [r for r in rows if r["kind"] == kind][:count]
    ]


def _show_places(store: str, report: EditReport) -> None:
    assert report.tracking_uri is not None
    name = shlex.quote(store)
    question = shlex.quote("When was the inception of IAAF Combined Events Challenge?")
    out.print(f"\nLedger, version {report.version}: {report.store}/ledger", soft_wrap=True)
    out.print(f"MLflow database: {report.tracking_uri}", soft_wrap=True)
    out.print("Open the MLflow page (then http://127.0.0.1:5000, Model training):")
    out.print(f"  {ui_command(report.tracking_uri)}", soft_wrap=True)
    out.print("Ask it yourself:")
    out.print(f"  {_scen()} ask {question} --store {name} --base-answer", soft_wrap=True)


def _scen() -> str:
    """This program, as short as the current folder allows."""
    program = Path(sys.argv[0]).absolute()
    here = Path.cwd()
    return shlex.quote(str(program.relative_to(here))) if program.is_relative_to(here) else "scen"
