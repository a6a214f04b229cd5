"""The experts in the workers' slots: which are evicted, and when a slot is reused."""

import asyncio
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import Tensor

from scen.errors import IntegrityError, NotFoundError
from scen.fs import Storage
from scen.ledger.tensors import save_bundle
from scen.model.expert import LowRankBank
from scen.snapshot.load import Place
from scen_serve.engine.caches import HostExpertCache
from scen_vllm.slots import ExpertSlots, Slot, expert_name

F, D, RANK = 6, 4, 2


@dataclass
class Device:
    """Slots of a worker, and the steps that are on their way: those that were scheduled before a
    fence are done after it."""

    held: dict[int, str] = field(default_factory=dict)
    scheduled: list[tuple[int, str]] = field(default_factory=list)
    fences: int = 0
    fails: bool = False

    async def put(self, slot: int, name: str, tensors: Mapping[str, Tensor]) -> None:
        assert slot not in [number for number, _ in self.scheduled], "a step still uses it"
        self.held.pop(slot, None)
        await asyncio.sleep(0.001)
        if self.fails:
            raise RuntimeError("no memory")
        self.held[slot] = name

    async def fence(self) -> None:
        before = list(self.scheduled)
        await asyncio.sleep(0.002)
        for step in before:
            self.scheduled.remove(step)
        self.fences += 1

    def use(self, slot: Slot) -> None:
        """A step with the expert, that is on its way until a fence."""
        assert self.held[slot.number] == slot.name
        self.scheduled.append((slot.number, slot.name))


@pytest.fixture
def host(tmp_path: Path) -> HostExpertCache:
    return HostExpertCache(Storage(str(tmp_path)), ("down", "up"), 1 << 20)


def save(folder: Path, count: int, width: int = F) -> list[Place]:
    """A bundle of random experts; their places."""
    bundle = {"down": torch.randn(count, RANK, width), "up": torch.randn(count, D, RANK)}
    digest = save_bundle(Storage(str(folder)), bundle)
    return [Place(digest, row) for row in range(count)]


def new_slots(host: HostExpertCache, device: Device, count: int) -> ExpertSlots:
    shape = LowRankBank(torch.zeros(1, RANK, F), torch.zeros(1, D, RANK))
    slots = ExpertSlots(host, shape, device.put, device.fence)
    slots.open(count)
    return slots


def test_more_experts_than_slots_under_load(tmp_path: Path, host: HostExpertCache) -> None:
    places, device = save(tmp_path, 200), Device()
    slots = new_slots(host, device, 8)
    draw = random.Random(0)

    async def answer(place: Place) -> bool:
        slot = await slots.acquire(place)
        try:
            for _ in range(3):
                assert slot.name == expert_name(place)
                device.use(slot)
                await asyncio.sleep(draw.random() / 200)
                assert device.held[slot.number] == slot.name
        finally:
            slots.release(slot)
        return True

    async def load() -> None:
        tasks = [asyncio.create_task(answer(draw.choice(places))) for _ in range(600)]
        await asyncio.sleep(0.05)
        cancelled = tasks[::7]
        for task in cancelled:
            task.cancel()
        told = await asyncio.gather(*tasks, return_exceptions=True)
        others = [one for task, one in zip(tasks, told, strict=True) if task not in cancelled]
        assert all(one is True for one in others)

    asyncio.run(load())
    assert slots.num_pinned == 0
    assert slots.counts.evictions > 100
    assert 0 < device.fences < slots.counts.evictions  # one is enough for several evictions


def test_the_least_recently_used_expert_makes_room(tmp_path: Path, host: HostExpertCache) -> None:
    first, second, third = save(tmp_path, 3)
    device = Device()
    slots = new_slots(host, device, 2)

    async def use(place: Place) -> int:
        slot = await slots.acquire(place)
        slots.release(slot)
        return slot.number

    async def run() -> None:
        a, b = await use(first), await use(second)
        assert await use(first) == a
        assert await use(third) == b
        assert await use(first) == a

    asyncio.run(run())
    assert (slots.counts.hits, slots.counts.misses, slots.counts.evictions) == (2, 3, 1)


def test_missing_and_damaged_experts_are_refused_and_take_no_slot(
    tmp_path: Path, host: HostExpertCache
) -> None:
    [good] = save(tmp_path, 1)
    [wide] = save(tmp_path, 1, width=F + 1)
    missing = Place("0" * 64, 0)
    device = Device()
    slots = new_slots(host, device, 1)

    async def run() -> None:
        with pytest.raises(NotFoundError):
            await slots.acquire(missing)
        with pytest.raises(IntegrityError, match="down is"):
            await slots.acquire(wide)
        device.fails = True
        with pytest.raises(RuntimeError, match="no memory"):
            await slots.acquire(good)
        device.fails = False
        slots.release(await slots.acquire(good))

    asyncio.run(run())
    assert slots.num_pinned == 0


def test_an_answer_that_is_cancelled_while_it_waits_takes_no_slot(
    tmp_path: Path, host: HostExpertCache
) -> None:
    first, second = save(tmp_path, 2)
    slots = new_slots(host, Device(), 1)

    async def run() -> None:
        held = await slots.acquire(first)
        waiting = asyncio.create_task(slots.acquire(second))
        await asyncio.sleep(0.05)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        slots.release(held)
        slots.release(await asyncio.wait_for(slots.acquire(second), 10))

    asyncio.run(run())
    assert slots.num_pinned == 0
