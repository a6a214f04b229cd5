"""The workers of a driver: a Ray Train run that lasts as long as the driver needs it.

The driver posts each task on a `TaskBoard` (a Ray actor); every worker does its share of it.
"""

import contextlib
import logging
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from scen.cluster.session import worker_environment
from scen.cluster.sharding import Strategy, choose_strategy, load_sharded, shard_bytes
from scen.config import ClusterConfig, Config
from scen.data.files import locate
from scen.fs import Storage
from scen.model.base import Base
from scen.model.decoder import NO_SYNC, RankSync
from scen.pipeline.evaluation_work import EvaluationTask, EvaluationWork
from scen.pipeline.plan import Wave
from scen.pipeline.runtime import calibrate_first
from scen.pipeline.work import (
    CalibrationTask,
    CalibrationWork,
    KeysTask,
    KeysWork,
    SharedWork,
    TrainingWork,
    do_share,
)
from scen.snapshot.open import OpenStore, load_store_base, open_on

_POLL_S = 0.1  # between two polls of the board

Task = Wave | EvaluationTask | KeysTask | CalibrationTask


@dataclass(frozen=True)
class WorkerJob:
    """The store that workers work on, and the settings. Pickled to each worker.

    `deepspeed` is the configuration for sharding the base; None loads it whole.
    """

    uri: str
    options: dict[str, str]
    config: Config
    deepspeed: dict[str, Any] | None


def work(settings: tuple[WorkerJob, Any]) -> dict[str, Any]:
    """Do this rank's share of each task until the board ends; `settings` are the job and the board.
    Results go to the store. Returns figures of rank 0."""
    import ray
    import ray.train

    job, board = settings
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    share = Share(job)
    number = 0
    while True:
        number = _next_number(board, rank, number)
        has_task, task = ray.get(board.take.remote(number))
        if has_task and task is None:
            return {"world": world, "shard_bytes": shard_bytes(share.base), "tasks": number}
        if has_task:
            do_share(share.work(task), rank, world)


def _next_number(board: Any, rank: int, done: int) -> int:
    """The number of the next task, which rank 0 broadcasts to all ranks."""
    import ray
    from ray.train.collective import broadcast_from_rank_zero

    newest = done
    while rank == 0 and newest == done:
        newest = ray.get(board.newest.remote())
        if newest == done:
            time.sleep(_POLL_S)
    return int(broadcast_from_rank_zero(newest))


class Share:
    """The part of a job in one rank: the base, whole or sharded over the ranks, and the store,
    opened on first use."""

    def __init__(self, job: WorkerJob) -> None:
        self._job = job
        self._storage = Storage(job.uri, job.options)
        self._sync: RankSync = NO_SYNC
        if job.deepspeed is None:
            self.base = self._load()
        else:
            self.base, self._sync = load_sharded(self._load, job.deepspeed)

    def work(self, task: Task) -> SharedWork:
        """The pieces of a task."""
        config = self._job.config
        if isinstance(task, KeysTask):
            return KeysWork.of(task, self._storage, self.base, self._sync)
        if isinstance(task, CalibrationTask):
            make = partial(calibrate_first, self.base, log.info)
            return CalibrationWork(task, self._storage, make, self._sync)
        if isinstance(task, Wave):
            return TrainingWork.of(task, config, self._store, self._sync)
        return EvaluationWork.of(task, config, self._store, self._sync)

    @cached_property
    def _store(self) -> OpenStore:
        return open_on(self._storage, self.base)

    def _load(self) -> Base:
        return load_store_base(self._storage, self._job.config.base, lambda _: None)


_KEPT_TASKS = 2  # a rank may still request the task before the newest


class TaskBoard:
    """Tasks by number, from 1 on; None as a task means that no more follow."""

    def __init__(self) -> None:
        self._tasks: dict[int, Any] = {}
        self._newest = 0

    def post(self, task: Any) -> int:
        """Post a task (None: no more follow); returns its number."""
        self._newest += 1
        self._tasks[self._newest] = task
        self._tasks.pop(self._newest - _KEPT_TASKS, None)
        return self._newest

    def newest(self) -> int:
        """The number of the newest task; 0 if there is none."""
        return self._newest

    def take(self, number: int) -> tuple[bool, Any]:
        """(True, the task of this number), or (False, None) if newer ones replaced it."""
        return number in self._tasks, self._tasks.get(number)


log = logging.getLogger(__name__)
_END_TIMEOUT_S = 30  # for workers to end after the last task


class WorkerGroup:
    """Workers that load the base once and do many tasks; used as a context manager.

    Requires a connected Ray. If a worker dies, all are restarted and continue the open task. They
    may fail `max_failures` times; after that the group has a `failure`.
    """

    def __init__(self) -> None:
        self.figures: dict[str, Any] = {}  # of the workers that have ended
        self._run: _Run | None = None
        self._strategy: Strategy | None = None

    def __enter__(self) -> "WorkerGroup":
        return self

    def __exit__(self, *_: object) -> None:
        self.dismiss()

    def give(self, job: WorkerJob, task: Task) -> None:
        """Give the workers a task; they are started first if none are running for this job."""
        if self._run is not None and (self._run.job != job or self._run.failure is not None):
            self.dismiss()
        if self._run is None:
            self._run = _Run(job)
        self._run.post(task)

    def strategy(
        self, settings: ClusterConfig, base: Base, measure: Callable[[ClusterConfig], int]
    ) -> Strategy:
        """See `choose_strategy`. Chosen once: while the workers run, the cluster may have no free
        resources for a measurement."""
        if self._strategy is None:
            self._strategy = choose_strategy(settings, base, measure)
        return self._strategy

    @property
    def failure(self) -> str | None:
        """Why the workers failed; None while they work."""
        return None if self._run is None else self._run.failure

    def dismiss(self) -> None:
        """End the workers."""
        if self._run is not None:
            self.figures = self._run.end()
            self._run = None


class _Run:
    """One Ray Train run, in a thread."""

    def __init__(self, job: WorkerJob) -> None:
        import ray

        self.job = job
        self.failure: str | None = None
        resources: Any = ray.cluster_resources  # untyped in Ray
        _warn_if_short(job.config.cluster, resources())
        self._figures: dict[str, Any] = {}
        self._board: Any = ray.remote(num_cpus=0)(TaskBoard).remote()
        # A unique name: Ray would resume an earlier run of the same name.
        self._name = f"workers-{uuid.uuid4().hex[:12]}"
        # Shared by all nodes; Ray's files there are deleted in the end.
        self._folder = f"{job.uri}/ray-train"
        self._trainer = _trainer(job, self._board, self._folder, self._name)
        self._thread = threading.Thread(target=self._fit, daemon=True)
        self._thread.start()

    def post(self, task: Task | None) -> None:
        """Post a task; None ends the run."""
        import ray

        ray.get(self._board.post.remote(task))

    def end(self) -> dict[str, Any]:
        """Wait for the workers to end; returns the figures of rank 0."""
        if self.failure is None:
            self.post(None)
            self._thread.join(_END_TIMEOUT_S)
        _delete_folder(f"{self._folder}/{self._name}")
        return self._figures

    def _fit(self) -> None:
        try:
            self._figures = self._trainer.fit().return_value or {}
        except Exception as err:  # any error must reach the driver
            self.failure = _cause(err)


def _warn_if_short(settings: ClusterConfig, available: Mapping[str, float]) -> None:
    """Warn if the cluster lacks resources, since Ray waits for them silently and for ever."""
    count = settings.min_workers or settings.workers
    for name, per_worker in (("CPU", settings.cpus_per_worker), ("GPU", settings.gpus_per_worker)):
        if count * per_worker > available.get(name, 0):
            log.warning(
                "%s workers need %g %ss and the cluster has %g: they wait until there are more",
                count, count * per_worker, name, available.get(name, 0),
            )  # fmt: skip


def _trainer(job: WorkerJob, board: Any, folder: str, name: str) -> Any:
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
    """`ray.train` and its `TorchTrainer`, untyped: their annotations are of the V1 API, while the
    objects at run time are of V2."""
    import ray.train
    from ray.train.torch import TorchTrainer

    return ray.train, TorchTrainer


def _delete_folder(folder: str) -> None:
    """Delete Ray's files of a run, if any."""
    place = locate(folder)
    with contextlib.suppress(OSError):
        place.filesystem.delete_dir(place.path)


def _cause(err: Exception) -> str:
    """The last line of an error that was passed through several processes."""
    lines = [line for line in str(err).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(err).__name__
