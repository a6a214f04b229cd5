"""`scen jobs`: the submitted streams of a cluster."""

import argparse
from datetime import UTC, datetime

from rich.table import Table

from scen.cli.output import out, write_json
from scen.cluster.jobs import JobClient


def run(args: argparse.Namespace) -> None:
    """List the jobs, newest first."""
    jobs = JobClient(args.address).jobs()
    if args.json:
        write_json({"jobs": jobs})
        return
    if not jobs:
        out.print("no stream was submitted to this cluster since it started")
        return
    table = Table("job", "status", "started (UTC)", "seconds")
    for job in jobs:
        table.add_row(job["job"], job["status"], _moment(job["started_ms"]), _length(job))
    out.print(table)


def _moment(ms: int | None) -> str:
    return "" if not ms else f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M:%S}"


def _length(job: dict[str, int | None]) -> str:
    began, ended = job["started_ms"], job["ended_ms"]
    return f"{(ended - began) / 1000:.0f}" if began and ended else ""
