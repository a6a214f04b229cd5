"""Jobs whose work is shared by a group of workers: streams, inboxes, evaluations.

The workers are configured under `cluster.*`. The driver needs little memory: it does not load the
base's weights.
"""

import resource
from collections.abc import Callable
from functools import partial

from scen.cli.edit import show_report, show_wave
from scen.cli.evaluate import show_evaluation
from scen.cli.output import say, step_progress
from scen.cluster.parts import RayParts, calibrate_on_workers, read_on_workers
from scen.cluster.session import ray_session
from scen.cluster.sharding import measure_dtype
from scen.cluster.worker_group import WorkerGroup
from scen.config import ClusterConfig, Config
from scen.evaluation.metrics import Outcome
from scen.fs import Storage
from scen.ledger.manifest import stored_method
from scen.model.base import Base
from scen.pipeline.evaluation_work import EvaluationTask, EvaluationWork
from scen.pipeline.job_spec import DrainSpec, EvalSpec, StreamSpec
from scen.pipeline.run_job import job_config, run_drain_spec, run_eval_spec, run_stream_spec
from scen.pipeline.runtime import Runtime
from scen.snapshot.open import OpenStore
from scen.tracking.client import NullTracker

_KIB_PER_MIB = 1024


def run_group_job(spec: StreamSpec | DrainSpec | EvalSpec, address: str, *, is_json: bool) -> None:
    """Do the work on the cluster at `address` and show the result. Raises ScenError."""
    given = job_config(spec)  # reports errors before connecting to Ray
    with ray_session(address), WorkerGroup() as group:
        config = settle_dtype(given, Storage(spec.store))
        runtime = Runtime(
            partial(RayParts, group=group),
            partial(read_on_workers, group),
            say,
            step_progress,
            partial(calibrate_on_workers, group, say),
        )
        if isinstance(spec, StreamSpec):
            report, store = run_stream_spec(spec, config, runtime)
            show_report(report, is_json=is_json)
        elif isinstance(spec, DrainSpec):
            store = run_drain_spec(spec, config, runtime, partial(show_wave, is_json=is_json))
        else:
            measure, show = partial(_measure, group), partial(show_evaluation, is_json=is_json)
            store = run_eval_spec(spec, config, measure, show, say, weights=False)
    say_driver(store.base)


def settle_dtype(
    config: Config,
    storage: Storage,
    measure: Callable[[ClusterConfig, str], str] = measure_dtype,
) -> Config:
    """The settings with `base.dtype=auto` resolved on a worker with a GPU, since the driver's
    machine may have none. Unchanged if the base and its dtype come from the store. Requires a
    connected Ray."""
    base = config.base
    is_bound = base.name is None and stored_method(storage) is not None
    if base.dtype != "auto" or config.cluster.gpus_per_worker == 0 or is_bound:
        return config
    dtype = measure(config.cluster, base.device)
    return config.model_copy(update={"base": base.model_copy(update={"dtype": dtype})})


def say_driver(base: Base) -> None:
    """Show whether this process loaded the base's weights, which only the workers need, and its
    peak memory."""
    weights = "loaded" if base.is_loaded else "not loaded"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _KIB_PER_MIB
    say(f"driver: weights of the base {weights} here, at most {peak:.0f} MiB of memory")


def _measure(
    group: WorkerGroup, store: OpenStore, config: Config, task: EvaluationTask
) -> list[Outcome]:
    """Evaluate on the workers. Finished batches are kept, so a killed run continues."""
    work = EvaluationWork.of(task, config, store)
    with step_progress() as bars:
        RayParts(store, config, task.locality, NullTracker(), bars, group).do("evaluate", work)
    return work.collect()
