"""`scen submit`: a file of edits becomes a job on a Ray cluster."""

import argparse
import importlib.util
import sys
from pathlib import Path

from scen.cli.job_arguments import file_mark, full_path, job_arguments, local_paths
from scen.cli.output import out, say, write_json
from scen.cluster.jobs import JobClient, StreamJob
from scen.cluster.session import passed_on
from scen.errors import ScenError
from scen.pipeline.stream import check_name, name_stream

_PACKAGES = ("scen", "scen_jobs")


def run(args: argparse.Namespace) -> None:
    """Submit the stream; with --follow, show its log and fail where it fails."""
    job = StreamJob(
        python=args.python,
        stream=check_name(args.stream or name_stream(args.file)),
        arguments=tuple(job_arguments(args)),
        store=str(full_path(args.store)).rstrip("/"),
        mark=file_mark(args.file),
        packages=() if args.installed_code else _code(),
        environment=passed_on(),
    )
    client = JobClient(args.address)
    for path in local_paths(args):
        say(f"{path} must be there on every node of the cluster")
    found = client.submit(job, args.driver_cpus, again=args.again)
    if not args.json:
        _tell(found.submission_id, found.state, args.address)
    status = found.state
    if args.follow and found.state != "done":
        status = client.follow(found.submission_id, _pass_on)
    if args.json:
        write_json({"job": found.submission_id, "state": found.state, "status": status})
    if status in ("FAILED", "STOPPED"):
        raise ScenError(f"job {found.submission_id} ended as {status}; submit it again to go on")


def _code() -> tuple[str, ...]:
    """The folders of this very code."""
    found = []
    for name in _PACKAGES:
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        found.append(str(Path(spec.origin).parent))
    return tuple(found)


def _tell(job: str, state: str, address: str) -> None:
    words = {
        "started": "started",
        "running": "is running already",
        "done": "is done already; --again runs it once more",
    }
    out.print(f"job {job} {words[state]}", soft_wrap=True)
    if state != "done":
        out.print(f"stop it with: scen stop {job} --address {address}", soft_wrap=True)


def _pass_on(text: str) -> None:
    """The log goes to stderr: it is progress, not a result."""
    sys.stderr.write(text)
    sys.stderr.flush()
