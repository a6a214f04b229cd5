"""The link between an engine and two workers that share a model, over real sockets."""

import asyncio
from typing import Any

import pytest
import torch
from torch import Tensor

from scen.model.keys import KeyPlace
from scen_vllm.link import WorkersLink
from scen_vllm.step import Bank, Step
from scen_vllm.wish import Settings
from scen_vllm.worker import Hooks, WorkerExtension

pytestmark = pytest.mark.vllm
F, D, RANK, SLOTS = 12, 5, 2, 3
PLACES = (KeyPlace(1, "mean"), KeyPlace(2, "span"), KeyPlace(4, "last"))
CPU = torch.device("cpu")


class Worker(WorkerExtension):
    """A worker with half of the input features and these layers, as vLLM composes it."""

    def __init__(self, rank: int, layers: list[int], rank_size: int = 2) -> None:
        settings = Settings.of(2, PLACES, RANK, SLOTS)
        width = F // rank_size
        bank = Bank(settings, (D, width), CPU)
        step = Step(settings, layers, bank, CPU)
        self.rank = rank
        self.scen_hooks: Hooks = Hooks(step, rank % rank_size, width, CPU)


class Workers:
    """Their `collective_rpc`."""

    def __init__(self, *workers: Worker) -> None:
        self.all = workers

    async def collective_rpc(self, method: str, args: tuple[Any, ...] = ()) -> list[Any]:
        return [getattr(worker, method)(*args) for worker in self.all]


def test_experts_are_split_over_workers_and_keys_are_joined() -> None:
    workers = Workers(Worker(0, [1, 2, 4]), Worker(1, [1, 2, 4]))
    expert = {"down": torch.randn(RANK, F), "up": torch.randn(D, RANK)}
    key_NF = torch.randn(4, F)  # mean, two spans, last

    async def run() -> list[Tensor]:
        link = WorkersLink(PLACES)
        await link.connect(workers)
        receiving = asyncio.ensure_future(link.receive())
        await asyncio.wait_for(link.put(1, "bundle:7", expert), 10)
        expected = link.expect("key")
        link.expect("another")
        for worker, part_NF in zip(workers.all, key_NF.split(F // 2, 1), strict=True):
            worker.scen_hooks.send([("forgotten", torch.zeros(4, F // 2)), ("key", part_NF)])
        found = await asyncio.wait_for(expected, 10)
        assert link.num_expected == 1
        receiving.cancel()
        link.close()
        return found

    mean, spans, last = asyncio.run(run())
    assert torch.equal(torch.cat([mean, spans, last]), key_NF)
    for worker, down in zip(workers.all, expert["down"].split(F // 2, 1), strict=True):
        bank = worker.scen_hooks.step.bank
        assert bank.names == [None, "bundle:7", None]
        assert torch.equal(bank.tensors["down"][1], down)
        assert torch.equal(bank.tensors["up"][1], expert["up"])


def test_workers_with_other_layers_send_the_places_that_they_have() -> None:
    """Pipeline parallel: the third worker has no layer that is read."""
    workers = Workers(Worker(0, [1, 2], 1), Worker(1, [4], 1), Worker(2, [], 1))
    key_NF = torch.randn(4, F)

    async def run() -> list[Tensor]:
        link = WorkersLink(PLACES)
        await link.connect(workers)
        receiving = asyncio.ensure_future(link.receive())
        expected = link.expect("key")
        workers.all[1].scen_hooks.send([("key", key_NF[3:])])
        workers.all[0].scen_hooks.send([("key", key_NF[:3])])
        found = await asyncio.wait_for(expected, 10)
        receiving.cancel()
        link.close()
        return found

    assert torch.equal(torch.cat(asyncio.run(run())), key_NF)


def test_a_worker_that_cannot_hold_an_expert_says_so() -> None:
    workers = Workers(Worker(0, [1, 2, 4], 1))
    expert = {"down": torch.randn(RANK + 1, F), "up": torch.randn(D, RANK + 1)}

    async def run() -> None:
        link = WorkersLink(PLACES)
        await link.connect(workers)
        receiving = asyncio.ensure_future(link.receive())
        with pytest.raises(RuntimeError, match="size"):
            await asyncio.wait_for(link.put(0, "bundle:0", expert), 10)
        receiving.cancel()
        link.close()

    asyncio.run(run())
    assert workers.all[0].scen_hooks.step.bank.names == [None] * SLOTS
