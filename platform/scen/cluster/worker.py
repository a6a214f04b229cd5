"""What a Ray Train worker does: its share of each task that the driver leaves on the board."""

import time
from dataclasses import dataclass
from typing import Any

from scen.base.load import Base
from scen.cluster.zero3 import load_sharded, shard_bytes
from scen.config import Config
from scen.editor.pace import ALONE, Pace
from scen.fs import Storage
from scen.snapshot.open import OpenStore, load_store_base, open_on
from scen.waves.evaluation_work import EvaluationTask, EvaluationWork
from scen.waves.plan import Wave
from scen.waves.shared_work import SharedWork, do_share
from scen.waves.training_work import TrainingWork

_POLL_S = 0.1  # between two looks at the board

Task = Wave | EvaluationTask


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
    store, pace = open_share(job)
    number = 0
    while True:
        number = _next_number(board, rank, number)
        is_there, task = ray.get(board.take.remote(number))
        if is_there and task is None:
            return {"world": world, "shard_bytes": shard_bytes(store.base), "tasks": number}
        if is_there:
            do_share(share_work(job, task, store, pace), rank, world)


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


def share_work(job: CrewJob, task: Task, store: OpenStore, pace: Pace) -> SharedWork:
    """The pieces that a task consists of."""
    if isinstance(task, Wave):
        return TrainingWork.of(task, job.config, store, pace)
    return EvaluationWork.of(task, job.config, store, pace)


def open_share(job: CrewJob) -> tuple[OpenStore, Pace]:
    """The store with its base: whole in each process, or split over the ranks."""
    storage = Storage(job.uri, job.options)

    def load() -> Base:
        return load_store_base(storage, job.config.base, lambda _: None)

    if job.deepspeed is None:
        return open_on(storage, load()), ALONE
    base, pace = load_sharded(load, job.deepspeed)
    return open_on(storage, base), pace
