"""A version of a store measured on a Ray cluster: `python -m scen_jobs.run_eval --store URI`.

Takes the arguments of `scen eval`; its workers are set under `cluster.*`. What is measured is kept
batch by batch, so that a run that was killed goes on where it ended.
"""

import sys
from collections.abc import Sequence
from functools import partial

from scen.cli.eval_command import measure_version
from scen.cli.output import step_progress
from scen.cli.parser import build_parser
from scen.cluster.parts import RayParts
from scen.cluster.session import ray_session
from scen.cluster.worker_group import Crew
from scen.config import Config
from scen.errors import ScenError
from scen.evaluation.metrics import Outcome
from scen.pipeline.evaluation_work import EvaluationTask, EvaluationWork
from scen.snapshot.open import OpenStore
from scen.tracking.tracker import NullTracker
from scen_jobs.driver_note import say_driver
from scen_jobs.settle_dtype import settle_dtype


def main(argv: Sequence[str], address: str = "auto") -> int:
    """Measure on the cluster at `address`; the exit code of `scen`."""
    args = build_parser().parse_args(["eval", *argv])
    try:
        with ray_session(address), Crew() as crew:
            settle_dtype(args)
            say_driver(measure_version(args, partial(_measure, crew), weights=False).base)
    except ScenError as error:
        sys.stderr.write(f"scen job: {error}\n")
        return error.exit_code
    return 0


def _measure(crew: Crew, store: OpenStore, config: Config, task: EvaluationTask) -> list[Outcome]:
    """Measure on the crew."""
    work = EvaluationWork.of(task, config, store)
    with step_progress() as bars:
        RayParts(store, config, task.locality, NullTracker(), bars, crew).do("evaluate", work)
    return work.collect()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
