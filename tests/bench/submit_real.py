"""A job on a real Ray head: edits are submitted, followed, found in ledger and MLflow, recognised.

    PYTHONPATH=tests python tests/bench/submit_real.py --edits 64

Starts `ray start --head` with its dashboard on 127.0.0.1, runs `scen submit ... --follow` on real
ZsRE edits with two workers, and submits the same again. The log is passed on. Prints one JSON line:
`seconds` from the start of the head to the end of the first submission, `job_seconds` of the job by
Ray's own clock, `second_submit_seconds` until the same is told to be done, `driver_peak_mb` of the
driver, which loads no weights. Ends with 1 where anything is not as it should be.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from bench.report import base_option, emit, new_parser, timed
from cluster.ray_head import Head, settle_environment, start_head, stop_tree
from scen.data import Validator, ingest
from scen.fs import Storage
from scen.ledger.ledger import open_ledger
from scen.samples import sample_path

_STREAM = "zsre"
_DRIVER = re.compile(r"weights of the base not loaded here, at most (\d+) MiB")


@dataclass(frozen=True)
class Said:
    """What a command printed as JSON, and its log."""

    json: dict[str, Any]
    log: str


def scen(*words: str) -> Said:
    """Run a `scen` command; its stderr is shown here as it comes."""
    command = [sys.executable, "-P", "-m", "scen.cli.main", *words, "--json"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    )
    assert process.stdout is not None
    assert process.stderr is not None
    log = []
    for line in process.stderr:
        sys.stderr.write(line)
        log.append(line)
    told = process.stdout.read()
    require(process.wait() == 0, f"scen {words[0]} ended with {process.returncode}")
    return Said(json.loads(told), "".join(log))


def require(is_so: bool, otherwise: str) -> None:
    """End the script where something is not so."""
    if not is_so:
        sys.exit(f"submit_real: {otherwise}")


def check_ledger(store: str, count: int) -> None:
    """The first edits of the sample are committed, once each."""
    batches = ingest(sample_path("zsre_edits.jsonl"), Validator(), limit=count)
    meant = [edit.id for batch in batches for edit in batch.edits]
    ledger = open_ledger(Storage(store))
    require(ledger.snapshot().ids == meant, "the ledger does not hold the edits of the file")
    committed = [commit.num_edits for commit in ledger.log()]
    require(sum(committed) == count, f"{committed} edits were committed, not {count}")


def check_mlflow(uri: str, count: int) -> dict[str, float]:
    """The metrics of the stream's only wave, whose run is whole."""
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(f"stream/{_STREAM}")
    require(experiment is not None, "MLflow was not told of the stream")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.`edit.kind` = 'wave'")
    require([run.info.status for run in runs] == ["FINISHED"], f"MLflow has {len(runs)} wave runs")
    found: dict[str, float] = runs[0].data.metrics
    require(found["wave/num_edits"] == count, "MLflow was told of another number of edits")
    return found


def job_seconds(address: str, job: str) -> float:
    """How long a job took by Ray's own clock."""
    [found] = [one for one in scen("jobs", "--address", address).json["jobs"] if one["job"] == job]
    return float(found["ended_ms"] - found["started_ms"]) / 1000


def measure(args: argparse.Namespace, head: Head, home: Path, began: float) -> dict[str, object]:
    """Submit twice, look at what is left, and give the figures."""
    store, uri = str(home / "store"), f"sqlite:///{home / 'mlflow.db'}"
    os.environ["MLFLOW_TRACKING_URI"] = uri
    words = ["submit", str(sample_path("zsre_edits.jsonl")), "--store", store, "--base", args.base]
    words += ["--stream", _STREAM, "--limit", str(args.edits), "--wave-size", str(args.edits)]
    words += ["--set", f"cluster.workers={args.workers}", "--python", sys.executable]
    words += ["--address", head.dashboard, "--follow"]
    first = scen(*words)
    seconds = time.perf_counter() - began
    require(first.json["status"] == "SUCCEEDED", f"the job ended as {first.json['status']}")
    driver = _DRIVER.search(first.log)
    require(driver is not None, "the driver has loaded the weights, or does not tell")
    check_ledger(store, args.edits)
    metrics = check_mlflow(uri, args.edits)
    second, second_seconds = timed(lambda: scen(*words))
    require(second.json == first.json | {"state": "done", "status": "done"},
            f"the second submission was taken for {second.json}")  # fmt: skip
    check_ledger(store, args.edits)
    check_mlflow(uri, args.edits)
    return {
        "seconds": round(seconds, 1),
        "job_seconds": round(job_seconds(head.dashboard, first.json["job"]), 1),
        "second_submit_seconds": round(second_seconds, 1),
        "reliability": metrics["eval/reliability_after"],
        "driver_peak_mb": int(driver[1]) if driver else None,
    }


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = new_parser(__doc__)
    base_option(parser)
    parser.add_argument("--edits", type=int, default=64, help="of the sample (%(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="(%(default)s)")
    return parser.parse_args(words)


def main() -> None:
    """Print the line."""
    args = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("submit_real: ended from outside"))
    home = settle_environment()
    began = time.perf_counter()
    process, head = start_head(home)
    try:
        figures = measure(args, head, home, began)
    finally:
        stop_tree(process)
        shutil.rmtree(home, ignore_errors=True)
    emit(bench="submit_real", edits=args.edits, workers=args.workers, **figures)


if __name__ == "__main__":
    main()
