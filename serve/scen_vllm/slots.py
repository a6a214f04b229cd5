"""The experts on the devices: slots of the workers' banks, assigned by the engine."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from scen.errors import IntegrityError
from scen.model.expert import FullBank, LowRankBank
from scen.snapshot.load import Place
from scen_serve.engine.caches import CacheCounts, HostExpertCache

Put = Callable[[int, str, Mapping[str, Tensor]], Awaitable[None]]
"""Copies an expert (slot, name, tensors) to all workers."""
Fence = Callable[[], Awaitable[object]]
"""Returns once no step that was scheduled before still runs on the workers' queues."""


def expert_name(place: Place) -> str:
    """The content-addressed name of an expert: digest of its bundle, and row."""
    return f"{place.bundle}:{place.row}"


@dataclass(eq=False)
class Slot:
    """A slot with an expert, pinned by `pins` answers. `freed_at` is the number of the fence after
    which no step uses an expert that is no longer pinned."""

    number: int
    place: Place
    pins: int = 0
    freed_at: int = 0
    loading: "asyncio.Future[None] | None" = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """The expert's name."""
        return expert_name(self.place)


class ExpertSlots:
    """LRU cache of experts in the slots of all workers. Used on one event loop.

    An expert is pinned while an answer uses it. An answer that was cancelled may still run in a
    step, whose keys and values are cached under the expert's name: its slot is reused only after a
    fence. If all slots are pinned, answers wait for one.
    """

    def __init__(
        self, host: HostExpertCache, shape: LowRankBank | FullBank, put: Put, fence: Fence
    ) -> None:
        """`shape` is a bank with one slot, whose tensors have the shapes of an expert's."""
        self.host = host
        self.bank = shape
        self.counts = CacheCounts()
        self._shapes = {name: tensor.shape[1:] for name, tensor in shape.tensors().items()}
        self._put = put
        self._fence = fence
        self._slots: OrderedDict[Place, Slot] = OrderedDict()  # least recently used first
        self._free: list[int] = []
        self._fences = 0  # completed
        self._fencing: asyncio.Task[None] | None = None
        self._released = asyncio.Event()

    def open(self, slots: int) -> None:
        """Use this number of slots."""
        self._free = list(reversed(range(slots)))

    @property
    def num_pinned(self) -> int:
        """Slots in use by answers."""
        return sum(slot.pins > 0 for slot in self._slots.values())

    async def acquire(self, place: Place) -> Slot:
        """Pin an expert, once it is in a slot of every worker.

        Raises IntegrityError or NotFoundError if its bundle is damaged or missing, RuntimeError if
        a worker cannot hold it.
        """
        while True:
            slot = self._slots.get(place)
            if slot is None:
                self.counts.misses += 1
                return await self._load(place)
            self._pin(slot)
            if slot.loading is None:
                self.counts.hits += 1
                return slot
            try:
                await asyncio.shield(slot.loading)
                return slot
            except BaseException:
                self.release(slot)
                raise

    def release(self, slot: Slot) -> None:
        """Unpin for one answer; the expert stays until its slot is needed."""
        slot.pins -= 1
        if slot.pins == 0:
            # A fence that is under way may have begun before the last step was scheduled.
            slot.freed_at = self._fences + (2 if self._fencing else 1)
            self._released.set()

    async def _load(self, place: Place) -> Slot:
        expert = await self._read(place)
        number = await self._take_number()
        slot = self._slots.get(place)
        if slot is not None:  # loaded by another answer in the meantime
            self._free.append(number)
            return await self.acquire(place)
        slot = Slot(number, place)
        self._slots[place] = slot
        self._pin(slot)
        slot.loading = asyncio.ensure_future(self._fill(slot, expert))
        try:
            await asyncio.shield(slot.loading)
        except BaseException:
            self.release(slot)
            raise
        return slot

    async def _fill(self, slot: Slot, expert: Mapping[str, Tensor]) -> None:
        try:
            await self._put(slot.number, slot.name, expert)
        except Exception:
            del self._slots[slot.place]
            self._free.append(slot.number)
            self._released.set()
            raise
        slot.loading = None
        self._released.set()

    async def _read(self, place: Place) -> Mapping[str, Tensor]:
        expert = self.host.find(place)
        while expert is None:
            await asyncio.wrap_future(self.host.prefetch(place))
            expert = self.host.find(place)
        for name, shape in self._shapes.items():
            if expert[name].shape != shape:
                raise IntegrityError(
                    f"expert {expert_name(place)}: {name} is {tuple(expert[name].shape)}, "
                    f"not {tuple(shape)} as this store's method needs"
                )
        return expert

    async def _take_number(self) -> int:
        """A slot without an expert; evicts the least recently used one if necessary."""
        while not self._free:
            idle = [slot for slot in self._slots.values() if not slot.pins and not slot.loading]
            clean = [slot for slot in idle if slot.freed_at <= self._fences]
            if clean:
                del self._slots[clean[0].place]
                self.counts.evictions += 1
                return clean[0].number
            if idle:
                await self._run_fence()
            else:
                self._released.clear()
                await self._released.wait()
        return self._free.pop()

    async def _run_fence(self) -> None:
        """Run a fence, or wait for the one under way."""
        if self._fencing is None:
            self._fencing = asyncio.ensure_future(self._count_fence())
        await asyncio.shield(self._fencing)

    async def _count_fence(self) -> None:
        try:
            await self._fence()
            self._fences += 1
        finally:
            self._fencing = None

    def _pin(self, slot: Slot) -> None:
        slot.pins += 1
        self._slots.move_to_end(slot.place)
