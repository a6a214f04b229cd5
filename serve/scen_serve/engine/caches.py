"""Caches: experts in host and device memory, and keys and values of prompt prefixes."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scen.fs import Storage
from scen.ledger.tensors import load_bundle, read_tensor, stored_parts
from scen.model.decoder import Pair
from scen.model.expert import FullBank, LowRankBank
from scen.model.prefill import Prefill
from scen.records import EncodedPrompt
from scen.snapshot.load import Place

Bundle = dict[str, Tensor]


class HostExpertCache:
    """LRU cache of bundles in memory. Holds at most `max_bytes`, or a single larger bundle."""

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
        """Size of the cached bundles."""
        with self._lock:
            return sum(_bytes(bundle) for bundle in self._bundles.values())

    def find(self, place: Place) -> Bundle | None:
        """The expert's tensors, if they are in memory."""
        with self._lock:
            if place.bundle not in self._bundles:
                return None
            self._bundles.move_to_end(place.bundle)
            stored = self._bundles[place.bundle]
            return {name: read_tensor(stored, name, place.row) for name in self._names}

    def prefetch(self, place: Place) -> "Future[None]":
        """Read the expert's bundle in the background.

        The future raises IntegrityError or NotFoundError if the bundle is damaged or missing.
        """
        with self._lock:
            if place.bundle not in self._reading:
                self._reading[place.bundle] = self._reader.submit(self._fetch, place.bundle)
            return self._reading[place.bundle]

    def read(self, digest: str) -> Bundle:
        """Read and verify all tensors of a bundle from the store; its experts are cached."""
        bundle = load_bundle(self._storage, digest)
        experts = stored_parts(bundle, self._names)
        with self._lock:
            self._bundles[digest] = experts
            total = sum(map(_bytes, self._bundles.values()))
            while total > self._max_bytes and len(self._bundles) > 1:
                total -= _bytes(self._bundles.popitem(last=False)[1])
        return bundle

    def close(self) -> None:
        """Stop the reader thread."""
        self._reader.shutdown(wait=False, cancel_futures=True)

    def _fetch(self, digest: str) -> None:
        try:
            self.read(digest)
        finally:
            with self._lock:
                del self._reading[digest]


@dataclass(slots=True)
class CacheCounts:
    """Counters of the expert cache."""

    hits: int = 0
    misses: int = 0
    evictions: int = 0


class ExpertCache:
    """LRU cache of experts on the device: slots of one bank, shared by all rows and versions.

    An expert in use by a row is pinned. Not thread-safe: only the engine's thread may use it.
    """

    def __init__(self, bank: LowRankBank | FullBank, host: HostExpertCache) -> None:
        self.bank = bank
        self.host = host
        self.counts = CacheCounts()
        self._slots: OrderedDict[Place, int] = OrderedDict()  # least recently used first
        self._pins: dict[int, int] = {}
        self._free = list(range(len(bank)))

    def acquire(self, place: Place) -> int | None:
        """Pin the expert in a slot; None if it is not in host memory or all slots are pinned.
        Raises what copying it raises, such as for an expert of the wrong size."""
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
        """Unpin a slot for one row; the expert stays cached until it is evicted."""
        self._pins[slot] -= 1
        if self._pins[slot] == 0:
            del self._pins[slot]

    @property
    def num_pinned(self) -> int:
        """Slots in use by rows."""
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
    """A float32 bank of `slots` zero experts for a base with this configuration; rank 0 means full
    matrices (method `scen`)."""
    intermediate, hidden = config.intermediate_size, config.hidden_size
    if rank == 0:
        return FullBank(torch.zeros(slots, hidden, intermediate, device=device))
    return LowRankBank(
        torch.zeros(slots, rank, intermediate, device=device),
        torch.zeros(slots, hidden, rank, device=device),
    )


def _bytes(bundle: Bundle) -> int:
    return sum(tensor.nbytes for tensor in bundle.values())


BLOCK = 16
"""Tokens per cached block."""

_Key = tuple[int, tuple[int, ...]]  # number of the previous block (0: none), tokens


@dataclass(frozen=True, slots=True)
class _Block:
    key: _Key
    number: int
    kv_L2HTd: Tensor


@dataclass(slots=True)
class PrefixCounts:
    """Prompts with a cached prefix, and the number of tokens reused."""

    hits: int = 0
    tokens: int = 0


class PrefixCache:
    """LRU cache of token blocks with their keys and values, at most `max_bytes`; 0 disables it.

    Only keys and values computed by the base alone are cached, never those of a prompt's last token
    or of an answer: an expert acts from the last prompt token on, so no block depends on an edit or
    version, and a swap leaves all valid. The cache must be off if experts act on the whole prompt.
    A match ends before the user's own words, whose keys routing reads.

    A cached prefix was computed in a batch of another shape, and the rest of the prompt runs in a
    smaller batch than the whole would. Logits therefore differ from those without the cache in the
    last bits; the tokens are the same in float32. An answer without an expert still equals the
    base's bit for bit, given the same batch and cached prefixes, as the operations are the same.
    Not thread-safe: only the engine's thread may use it.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self.counts = PrefixCounts()
        # Least recently used first; within a prompt the last block first, so that no block outlives
        # its predecessor.
        self._blocks: OrderedDict[_Key, _Block] = OrderedDict()
        self._next = 1

    def known(self, prompts: Sequence[EncodedPrompt]) -> list[Pair]:
        """keys_BHWd and values_BHWd of each layer, for the first W positions of the left-padded
        batch of these prompts; empty if W is 0. W is the batch's width less the largest number of
        uncached tokens of any prompt."""
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
            count = len(prompt.ids) - rest  # may be less than the cached part of this prompt
            if count > 0:
                kv_L2HTd = torch.cat([block.kv_L2HTd for block in chain], 3)
                kv_L2BHWd[:, :, row, :, width - count :] = kv_L2HTd[:, :, :, :count]
        return [(keys, values) for keys, values in kv_L2BHWd]

    def keep(self, prompts: Sequence[EncodedPrompt], filled: Prefill) -> None:
        """Cache the keys and values of a prefill of these prompts, and count the reused tokens."""
        if not self.max_bytes:
            return
        reused_B = filled.batch.mask_BP[:, : filled.num_known].sum(1)
        self.counts.hits += int((reused_B > 0).sum())
        self.counts.tokens += int(reused_B.sum())
        for row, prompt in enumerate(prompts):
            self._keep_row(prompt.ids, filled.cache.layers, row)

    def _find(self, ids: tuple[int, ...], limit: int) -> list[_Block]:
        """The longest chain of cached blocks within the first `limit` tokens of a prompt."""
        chain: list[_Block] = []
        for begin in range(0, limit - BLOCK + 1, BLOCK):
            before = chain[-1].number if chain else 0
            block = self._blocks.get((before, ids[begin : begin + BLOCK]))
            if block is None:
                break
            chain.append(block)
        return chain

    def _keep_row(self, ids: tuple[int, ...], layers: Any, row: int) -> None:
        """Cache the blocks of a prompt as most recently used: from its beginning, without its last
        token, as many as fit into `max_bytes`."""
        token_HTd = layers[0].keys[row, :, :1]  # values and all other layers have the same size
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
        blocks = torch.stack(parts).split(
            BLOCK, 3
        )  # one copy of the span; each block is cloned below
        for begin, kv_L2HTd in zip(range(known, end, BLOCK), blocks, strict=True):
            chain.append(self._add(chain, ids[begin : begin + BLOCK], kv_L2HTd.clone()))
        self._touch(chain)

    def _touch(self, chain: list[_Block]) -> None:
        """Mark blocks as used, the first one last, so that it is evicted after its successors."""
        for block in reversed(chain):
            self._blocks.move_to_end(block.key)

    def _make_room(self, num_bytes: int) -> None:
        """Evict least recently used blocks until `num_bytes` more fit."""
        while self._blocks and self.num_bytes + num_bytes > self.max_bytes:
            self.num_bytes -= self._blocks.popitem(last=False)[1].kv_L2HTd.nbytes

    def _add(self, chain: list[_Block], tokens: tuple[int, ...], kv_L2HTd: Tensor) -> _Block:
        """Add a block that follows the chain."""
        block = _Block((chain[-1].number if chain else 0, tokens), self._next, kv_L2HTd)
        self._blocks[block.key] = block
        self._next += 1
        self.num_bytes += kv_L2HTd.nbytes
        return block
