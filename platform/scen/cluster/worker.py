"""What a Ray Train worker does: its share of each task that the driver leaves on the board."""

import time
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from scen.cluster.zero3 import load_sharded, shard_bytes
from scen.config import Config
from scen.fs import Storage
from scen.model.base import Base
from scen.model.decoder import NO_SYNC, RankSync
from scen.snapshot.open import OpenStore, load_store_base, open_on
from scen.waves.evaluation_work import EvaluationTask, EvaluationWork
from scen.waves.keys_work import KeysTask, KeysWork
from scen.waves.plan import Wave
from scen.waves.shared_work import SharedWork, do_share
from scen.waves.training_work import TrainingWork

_POLL_S = 0.1  # between two looks at the board

Task = Wave | EvaluationTask | KeysTask


@dataclass(frozen=True)
class CrewJob:
    """The store that workers work for, and how. Pickled to each of them.

    `deepspeed` is the configuration by which the base is split; None leaves it whole.
    """

    uri: str
    options: dict[str, str]
    config: Config
    deepspeed: dict[str, Any] | None


def work(settings: tuple[CrewJob, Any]) -> dict[str, Any]:
    """Do this rank's share of task after task until the end; `settings` are the job and the
    board. Results go to the store. Returns figures of rank 0."""
    import ray
    import ray.train

    job, board = settings
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    share = Share(job)
    number = 0
    while True:
        number = _next_number(board, rank, number)
        is_there, task = ray.get(board.take.remote(number))
        if is_there and task is None:
            return {"world": world, "shard_bytes": shard_bytes(share.base), "tasks": number}
        if is_there:
            do_share(share.work(task), rank, world)


def _next_number(board: Any, rank: int, done: int) -> int:
    """The number of the next task: the same on all ranks, as rank 0 tells it to the others."""
    import ray
    from ray.train.collective import broadcast_from_rank_zero

    newest = done
    while rank == 0 and newest == done:
        newest = ray.get(board.newest.remote())
        if newest == done:
            time.sleep(_POLL_S)
    return int(broadcast_from_rank_zero(newest))


class Share:
    """What a rank has of a job: the base, whole in each process or split over the ranks, and the
    store, once there is one."""

    def __init__(self, job: CrewJob) -> None:
        self._job = job
        self._storage = Storage(job.uri, job.options)
        self._sync: RankSync = NO_SYNC
        if job.deepspeed is None:
            self.base = self._load()
        else:
            self.base, self._sync = load_sharded(self._load, job.deepspeed)

    def work(self, task: Task) -> SharedWork:
        """The pieces that a task consists of."""
        config = self._job.config
        if isinstance(task, KeysTask):
            return KeysWork.of(task, self._storage, self.base, self._sync)
        if isinstance(task, Wave):
            return TrainingWork.of(task, config, self._store, self._sync)
        return EvaluationWork.of(task, config, self._store, self._sync)

    @cached_property
    def _store(self) -> OpenStore:
        return open_on(self._storage, self.base)

    def _load(self) -> Base:
        return load_store_base(self._storage, self._job.config.base, lambda _: None)
