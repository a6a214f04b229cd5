"""Caches of the engine: experts in host and device memory, and keys and values of prompt prefixes."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scen.fs import Storage
from scen.ledger.tensors import load_bundle
from scen.model.decoder import Pair
from scen.model.expert import FullBank, LowRankBank
from scen.model.prefill import Prefill
from scen.records import EncodedPrompt
from scen.snapshot.load import Place

Bundle = dict[str, Tensor]


class HostExpertCache:
    """Bundles in memory, least recently used out first; `max_bytes` bounds all but one."""

    def __init__(self, storage: Storage, names: tuple[str, ...], max_bytes: int) -> None:
        self._storage = storage
        self._names = names
        self._max_bytes = max_bytes
        self._bundles: OrderedDict[str, Bundle] = OrderedDict()
        self._reading: dict[str, Future[None]] = {}
        self._lock = threading.Lock()
        self._reader = ThreadPoolExecutor(1, "scen-experts")

    @property
    def num_bytes(self) -> int:
        """Of the bundles that are held."""
        with self._lock:
            return sum(_bytes(bundle) for bundle in self._bundles.values())

    def find(self, place: Place) -> Bundle | None:
        """The expert's tensors, where they are in memory."""
        with self._lock:
            if place.bundle not in self._bundles:
                return None
            self._bundles.move_to_end(place.bundle)
            return {n: t[place.row] for n, t in self._bundles[place.bundle].items()}

    def prefetch(self, place: Place) -> "Future[None]":
        """Read the expert's bundle in the background.

        The future raises IntegrityError or NotFoundError where the bundle is damaged or missing.
        """
        with self._lock:
            if place.bundle not in self._reading:
                self._reading[place.bundle] = self._reader.submit(self._fetch, place.bundle)
            return self._reading[place.bundle]

    def read(self, digest: str) -> Bundle:
        """All tensors of a bundle from the store, checked; its experts are kept in memory."""
        bundle = load_bundle(self._storage, digest)
        experts = {name: bundle[name] for name in self._names}
        with self._lock:
            self._bundles[digest] = experts
            total = sum(map(_bytes, self._bundles.values()))
            while total > self._max_bytes and len(self._bundles) > 1:
                total -= _bytes(self._bundles.popitem(last=False)[1])
        return bundle

    def close(self) -> None:
        """End the thread that reads."""
        self._reader.shutdown(wait=False, cancel_futures=True)

    def _fetch(self, digest: str) -> None:
        try:
            self.read(digest)
        finally:
            with self._lock:
                del self._reading[digest]


@dataclass(slots=True)
class CacheCounts:
    """What became of the experts that were asked for."""

    hits: int = 0
    misses: int = 0
    evictions: int = 0


class ExpertCache:
    """The experts on the device: slots of one bank, shared by all rows and all versions.

    An expert that a row uses is pinned. Not thread-safe: it belongs to the engine's thread.
    """

    def __init__(self, bank: LowRankBank | FullBank, host: HostExpertCache) -> None:
        self.bank = bank
        self.host = host
        self.counts = CacheCounts()
        self._slots: OrderedDict[Place, int] = OrderedDict()  # least recently used first
        self._pins: dict[int, int] = {}
        self._free = list(range(len(bank)))

    def acquire(self, place: Place) -> int | None:
        """A slot with this expert, pinned; None where it is not in memory or all are pinned. Raises
        what copying it did, such as for an expert of another size."""
        slot = self._slots.get(place)
        if slot is None:
            expert = self.host.find(place)
            slot = None if expert is None else self._free_slot()
            if expert is None or slot is None:
                return None
            try:
                for name, tensor in self.bank.tensors().items():
                    tensor[slot].copy_(expert[name])
            except Exception:
                self._free.append(slot)
                raise
            self._slots[place] = slot
            self.counts.misses += 1
        else:
            self.counts.hits += 1
        self._slots.move_to_end(place)
        self._pins[slot] = self._pins.get(slot, 0) + 1
        return slot

    def release(self, slot: int) -> None:
        """One row less uses this slot; the expert stays until the room is needed."""
        self._pins[slot] -= 1
        if self._pins[slot] == 0:
            del self._pins[slot]

    @property
    def num_pinned(self) -> int:
        """Slots that rows use now."""
        return len(self._pins)

    def _free_slot(self) -> int | None:
        if self._free:
            return self._free.pop()
        for place, slot in self._slots.items():
            if slot not in self._pins:
                del self._slots[place]
                self.counts.evictions += 1
                return slot
        return None


def empty_bank(config: Any, rank: int, slots: int, device: torch.device) -> LowRankBank | FullBank:
    """A bank of `slots` experts of zeros, float32, for the base of this configuration; rank 0 is
    a bank of whole matrices (method `scen`)."""
    wide, narrow = config.intermediate_size, config.hidden_size
    if rank == 0:
        return FullBank(torch.zeros(slots, narrow, wide, device=device))
    return LowRankBank(
        torch.zeros(slots, rank, wide, device=device),
        torch.zeros(slots, narrow, rank, device=device),
    )


def _bytes(bundle: Bundle) -> int:
    return sum(tensor.nbytes for tensor in bundle.values())


BLOCK = 16
"""Tokens that are kept and looked up together."""

_Key = tuple[int, tuple[int, ...]]  # the number of the block before (0: none), and the tokens


@dataclass(frozen=True, slots=True)
class _Block:
    key: _Key
    number: int
    kv_L2HTd: Tensor


@dataclass(slots=True)
class PrefixCounts:
    """Prompts that began with known tokens, and how many tokens were not run again."""

    hits: int = 0
    tokens: int = 0


class PrefixCache:
    """Blocks of tokens with their keys and values; the least recently used go when there are more
    than `max_bytes`. With 0 it knows nothing, and keeps nothing.

    Only what the base alone made of a prompt is kept, never of its last token nor of an answer: an
    expert acts from the last prompt token on, so nothing here depends on any edit or version, and
    a swap leaves all of it valid. It must be off where experts act on the whole prompt. What is
    found ends before the user's own words, whose keys routing reads.

    A known prefix was run in a batch of another shape than the prompt that finds it, and the rest
    of that prompt is run in a smaller one than the whole would be. So its logits differ from those
    without the cache in their last bits; the tokens are the same in float32. An answer without an
    expert is still the base's bit for bit: the base, asked in the same batch with the same known
    prefixes, does the same operations. Not thread-safe: it belongs to the engine's thread.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self.counts = PrefixCounts()
        # Least recently used first; of a prompt the last block first, so that no block is left
        # without the one before it.
        self._blocks: OrderedDict[_Key, _Block] = OrderedDict()
        self._next = 1

    def known(self, prompts: Sequence[EncodedPrompt]) -> list[Pair]:
        """keys_BHWd and values_BHWd of each layer, for the first W positions of the left-padded
        batch of these prompts; empty where W is 0. The other positions are as many as the prompt
        needs of which most is unknown."""
        chains = [self._find(prompt.ids, prompt.own[0]) for prompt in prompts]
        rest = max(
            len(prompt.ids) - BLOCK * len(chain)
            for prompt, chain in zip(prompts, chains, strict=True)
        )
        width = max(len(prompt.ids) for prompt in prompts) - rest
        if width == 0:
            return []
        like = next(chain for chain in chains if chain)[0].kv_L2HTd
        layers, two, heads, _, size = like.shape
        kv_L2BHWd = like.new_zeros(layers, two, len(prompts), heads, width, size)
        for row, (prompt, chain) in enumerate(zip(prompts, chains, strict=True)):
            count = len(prompt.ids) - rest  # may be less than what is known of this prompt
            if count > 0:
                kv_L2HTd = torch.cat([block.kv_L2HTd for block in chain], 3)
                kv_L2BHWd[:, :, row, :, width - count :] = kv_L2HTd[:, :, :, :count]
        return [(keys, values) for keys, values in kv_L2BHWd]

    def keep(self, prompts: Sequence[EncodedPrompt], filled: Prefill) -> None:
        """Take what a prefill of these prompts made, and count what it did not have to run."""
        if not self.max_bytes:
            return
        reused_B = filled.batch.mask_BP[:, : filled.num_known].sum(1)
        self.counts.hits += int((reused_B > 0).sum())
        self.counts.tokens += int(reused_B.sum())
        for row, prompt in enumerate(prompts):
            self._keep_row(prompt.ids, filled.cache.layers, row)

    def _find(self, ids: tuple[int, ...], limit: int) -> list[_Block]:
        """The known blocks that a prompt begins with, within its first `limit` tokens."""
        chain: list[_Block] = []
        for begin in range(0, limit - BLOCK + 1, BLOCK):
            before = chain[-1].number if chain else 0
            block = self._blocks.get((before, ids[begin : begin + BLOCK]))
            if block is None:
                break
            chain.append(block)
        return chain

    def _keep_row(self, ids: tuple[int, ...], layers: Any, row: int) -> None:
        """Make the blocks of a prompt, all but its last token, the most recently used: as many from
        its beginning on as there is room for."""
        token_HTd = layers[0].keys[row, :, :1]  # values are as large, and every layer's are
        size = 2 * len(layers) * BLOCK * token_HTd.nbytes
        end = BLOCK * min((len(ids) - 1) // BLOCK, self.max_bytes // size)
        chain = self._find(ids, end)
        self._touch(chain)
        known = BLOCK * len(chain)
        self._make_room(size * ((end - known) // BLOCK))
        if known == end:
            return
        span = slice(known - len(ids), end - len(ids))  # the padding is on the left
        parts = [torch.stack([kv.keys[row, :, span], kv.values[row, :, span]]) for kv in layers]
        blocks = torch.stack(parts).split(BLOCK, 3)  # one copy for all, then one of each block
        for begin, kv_L2HTd in zip(range(known, end, BLOCK), blocks, strict=True):
            chain.append(self._add(chain, ids[begin : begin + BLOCK], kv_L2HTd.clone()))
        self._touch(chain)

    def _touch(self, chain: list[_Block]) -> None:
        """These are used now; the first block last, so that it goes after those behind it."""
        for block in reversed(chain):
            self._blocks.move_to_end(block.key)

    def _make_room(self, num_bytes: int) -> None:
        """Let the least recently used go until so many bytes fit in."""
        while self._blocks and self.num_bytes + num_bytes > self.max_bytes:
            self.num_bytes -= self._blocks.popitem(last=False)[1].kv_L2HTd.nbytes

    def _add(self, chain: list[_Block], tokens: tuple[int, ...], kv_L2HTd: Tensor) -> _Block:
        """A new block behind those of the chain."""
        block = _Block((chain[-1].number if chain else 0, tokens), self._next, kv_L2HTd)
        self._blocks[block.key] = block
        self._next += 1
        self.num_bytes += kv_L2HTd.nbytes
        return block
