"""`scen stop`: end a submitted stream."""

import argparse

from scen.cli.output import out, write_json
from scen.cluster.jobs import JobClient


def run(args: argparse.Namespace) -> None:
    """Stop a job. Raises NotFoundError."""
    stopped = JobClient(args.address).stop(args.job)
    if args.json:
        write_json({"job": args.job, "stopped": stopped})
    elif stopped:
        out.print(f"job {args.job} is told to stop; submit it again to go on")
    else:
        out.print(f"job {args.job} had ended already")
