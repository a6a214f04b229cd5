"""An inbox as a Ray job that never ends: `python -m scen_jobs.run_drain --store URI ...`.

Takes the arguments of `scen drain`; its workers are set under `cluster.*`. Safe to kill at any
instant and to run again.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial

from scen.cli.drain_command import drain_config, drain_job, show_wave
from scen.cli.output import say, show_warnings, step_progress
from scen.cli.parser import build_parser
from scen.cluster.parts import RayParts, read_on_crew
from scen.cluster.session import ray_session
from scen.cluster.worker_group import Crew
from scen.errors import ScenError
from scen.fs import Storage
from scen.pipeline.drain import drain_inbox
from scen.pipeline.runtime import Runtime
from scen_jobs.driver_note import say_driver
from scen_jobs.settle_dtype import settle_dtype


def main(argv: Sequence[str], address: str = "auto") -> int:
    """Drain on a cluster; the exit code of `scen`."""
    show_warnings()
    args: argparse.Namespace = build_parser().parse_args(["drain", *argv])
    storage, show = Storage(args.store), partial(show_wave, is_json=args.json)
    try:
        with ray_session(address), Crew() as crew:
            settle_dtype(args)
            make_parts, read = partial(RayParts, crew=crew), partial(read_on_crew, crew)
            runtime = Runtime(make_parts, read, say, step_progress)
            config = drain_config(args, storage)
            say_driver(drain_inbox(drain_job(args), storage, config, show, runtime).base)
    except ScenError as error:
        sys.stderr.write(f"scen job: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
