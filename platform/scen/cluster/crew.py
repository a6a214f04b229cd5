"""The workers of a driver: a Ray Train run that lives as long as the driver needs it."""

import contextlib
import logging
import threading
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from scen.cluster.session import worker_environment
from scen.cluster.strategy import Strategy, choose_strategy
from scen.cluster.task_board import TaskBoard
from scen.cluster.worker import CrewJob, Task, work
from scen.config import ClusterConfig
from scen.ingest.location import locate
from scen.model.base import Base

log = logging.getLogger(__name__)
_END_LIMIT_S = 30  # for workers that are told to go home


class Crew:
    """Workers that load the base once and do task after task; used as a context manager.

    Wants a connected Ray. A worker that dies is started again with all others and goes on with the
    open task. They may fail `max_failures` times; after that the crew has a `failure`.
    """

    def __init__(self) -> None:
        self.figures: dict[str, Any] = {}  # of the workers that have gone home
        self._run: _Run | None = None
        self._strategy: Strategy | None = None

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, *_: object) -> None:
        self.dismiss()

    def give(self, job: CrewJob, task: Task) -> None:
        """Let the workers do a task; they are started first where none work at this job."""
        if self._run is not None and (self._run.job != job or self._run.failure is not None):
            self.dismiss()
        if self._run is None:
            self._run = _Run(job)
        self._run.post(task)

    def strategy(
        self, settings: ClusterConfig, base: Base, measure: Callable[[ClusterConfig], int]
    ) -> Strategy:
        """See `choose_strategy`. It is chosen once: when the workers are there, nothing may be left
        of the cluster to measure on."""
        if self._strategy is None:
            self._strategy = choose_strategy(settings, base, measure)
        return self._strategy

    @property
    def failure(self) -> str | None:
        """Why the workers gave up; None while they work."""
        return None if self._run is None else self._run.failure

    def dismiss(self) -> None:
        """Send the workers home."""
        if self._run is not None:
            self.figures = self._run.end()
            self._run = None


class _Run:
    """One Ray Train run, followed by a thread."""

    def __init__(self, job: CrewJob) -> None:
        import ray

        self.job = job
        self.failure: str | None = None
        resources: Any = ray.cluster_resources  # untyped in Ray
        _warn_of_waiting(job.config.cluster, resources())
        self._figures: dict[str, Any] = {}
        self._board: Any = ray.remote(num_cpus=0)(TaskBoard).remote()
        # A name of its own: under an old one Ray would go on where that run ended.
        self._name = f"crew-{uuid.uuid4().hex[:12]}"
        # A place that all nodes share; what Ray keeps there is not needed again.
        self._folder = f"{job.uri}/ray-train"
        self._trainer = _trainer(job, self._board, self._folder, self._name)
        self._thread = threading.Thread(target=self._fit, daemon=True)
        self._thread.start()

    def post(self, task: Task | None) -> None:
        """Leave a task; None is the end."""
        import ray

        ray.get(self._board.post.remote(task))

    def end(self) -> dict[str, Any]:
        """Wait for the workers to leave; what rank 0 says about them."""
        if self.failure is None:
            self.post(None)
            self._thread.join(_END_LIMIT_S)
        _forget(f"{self._folder}/{self._name}")
        return self._figures

    def _fit(self) -> None:
        try:
            self._figures = self._trainer.fit().return_value or {}
        except Exception as err:  # whatever it is, the driver must hear of it
            self.failure = _cause(err)


def _warn_of_waiting(settings: ClusterConfig, there: Mapping[str, float]) -> None:
    """Ray waits for ever, and in silence, for what a cluster does not have."""
    count = settings.min_workers or settings.workers
    for name, each in (("CPU", settings.cpus_per_worker), ("GPU", settings.gpus_per_worker)):
        if count * each > there.get(name, 0):
            log.warning(
                "%s workers want %g %ss and the cluster has %g: they wait until there are more",
                count, count * each, name, there.get(name, 0),
            )  # fmt: skip


def _trainer(job: CrewJob, board: Any, folder: str, name: str) -> Any:
    from ray.train.torch import TorchConfig

    ray_train, trainer_of = _api()
    settings = job.config.cluster
    is_gpu = settings.gpus_per_worker > 0
    resources = {"CPU": settings.cpus_per_worker}
    if is_gpu:
        resources["GPU"] = settings.gpus_per_worker
    workers: Any = settings.workers
    if settings.min_workers is not None:
        workers = (settings.min_workers, settings.workers)
    return trainer_of(
        work,
        train_loop_config=(job, board),
        torch_config=TorchConfig(
            backend="nccl" if is_gpu else "gloo", timeout_s=int(settings.timeout_s)
        ),
        scaling_config=ray_train.ScalingConfig(
            num_workers=workers, use_gpu=is_gpu, resources_per_worker=resources
        ),
        run_config=ray_train.RunConfig(
            name=name,
            storage_path=folder,
            failure_config=ray_train.FailureConfig(max_failures=settings.max_failures),
            worker_runtime_env={"env_vars": worker_environment(settings.gpus_per_worker)},
        ),
    )


def _api() -> tuple[Any, Any]:
    """`ray.train` and its `TorchTrainer`, untyped: their annotations are those of the API before
    V2, which is what they are at run time."""
    import ray.train
    from ray.train.torch import TorchTrainer

    return ray.train, TorchTrainer


def _forget(folder: str) -> None:
    """Delete what Ray kept of a run, where it kept anything."""
    place = locate(folder)
    with contextlib.suppress(OSError):
        place.filesystem.delete_dir(place.path)


def _cause(err: Exception) -> str:
    """The last line of an error that went through several processes."""
    lines = [line for line in str(err).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(err).__name__
