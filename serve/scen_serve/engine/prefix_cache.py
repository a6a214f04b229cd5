"""Keys and values of prompts' beginnings, such as system prompts, so that they are run once.

Suffixes: L layers, B prompts, H heads, W positions that are known, T tokens of one prompt,
d numbers of a head.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scen.model.decoder import Pair
from scen.model.prefill import Prefill
from scen.records import EncodedPrompt

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
