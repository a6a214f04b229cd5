"""A stream of edits as a Ray job: `python -m scen_jobs.run_stream EDITS --store URI ...`.

Takes the arguments of `scen edit`; its workers are set under `cluster.*`. Safe to kill at any
instant and to run again: see `scen.pipeline.run_wave`.
"""

import sys
from collections.abc import Sequence
from functools import partial

from scen.cli.edit_command import edit_config, edit_job, show
from scen.cli.output import say, show_warnings, step_progress
from scen.cli.parser import build_parser
from scen.cluster.parts import RayParts, read_on_crew
from scen.cluster.session import ray_session
from scen.cluster.worker_group import Crew
from scen.errors import ScenError
from scen.fs import Storage
from scen.pipeline.apply import apply_edits
from scen.pipeline.runtime import Runtime
from scen_jobs.driver_note import say_driver
from scen_jobs.settle_dtype import settle_dtype


def main(argv: Sequence[str], address: str = "auto") -> int:
    """Run the stream on the cluster at `address`; the exit code of `scen`."""
    show_warnings()
    args = build_parser().parse_args(["edit", *argv])
    storage = Storage(args.store)
    try:
        edit_config(args, storage)  # what is wrong is told before Ray is asked
        with ray_session(address), Crew() as crew:
            settle_dtype(args)
            make_parts, read = partial(RayParts, crew=crew), partial(read_on_crew, crew)
            runtime = Runtime(make_parts, read, say, step_progress)
            job, config = edit_job(args), edit_config(args, storage)
            report, store = apply_edits(job, storage, config, runtime)
            report.require_edits(job.name)
    except ScenError as error:
        sys.stderr.write(f"scen job: {error}\n")
        return error.exit_code
    say_driver(store.base)
    show(report, args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
