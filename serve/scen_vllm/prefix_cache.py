"""Keeps vLLM's prefix cache correct where experts act and where keys are read.

Hooks of the process that schedules. A block with keys and values computed by an expert is hashed
with the expert's name, also for all following blocks, as hashes are chained. A prompt whose keys
are read takes nothing from the cache beyond the first position that is read.
"""

from typing import Any

from scen_vllm.wish import first_read, wish_of


def patch_prefix_cache() -> None:
    """Replace two functions of vLLM's KV cache, once."""
    from vllm.v1.core import block_pool, kv_cache_utils
    from vllm.v1.core.kv_cache_manager import KVCacheManager
    from vllm.v1.simple_kv_offload import manager

    if KVCacheManager.get_computed_blocks.__module__ == __name__:
        return
    hash_keys = _with_expert(kv_cache_utils.generate_block_hash_extra_keys)
    for module in (kv_cache_utils, block_pool, manager):  # the latter two import it by name
        module.generate_block_hash_extra_keys = hash_keys
    KVCacheManager.get_computed_blocks = _with_limit(KVCacheManager.get_computed_blocks)


def _with_expert(hash_keys: Any) -> Any:
    """Adds the expert to the hash of each block that has tokens on which it acts."""

    def generate_block_hash_extra_keys(
        request: Any, start_token_idx: int, end_token_idx: int, start_mm_idx: int
    ) -> tuple[tuple[Any, ...] | None, int]:
        keys, mm_idx = hash_keys(request, start_token_idx, end_token_idx, start_mm_idx)
        wish = wish_of(request.sampling_params)
        if "expert" in wish and end_token_idx > wish["start"]:
            keys = (*(keys or ()), ("scen", wish["expert"], wish["start"]))
        return keys, mm_idx

    return generate_block_hash_extra_keys


def _with_limit(find_blocks: Any) -> Any:
    """Limits hits of prompts whose keys are read."""

    def get_computed_blocks(self: Any, request: Any) -> Any:
        wish = wish_of(request.sampling_params)
        if "key" not in wish:
            return find_blocks(self, request)
        coordinator, limit = self.coordinator, first_read(wish)
        longest = coordinator.find_longest_cache_hit
        coordinator.find_longest_cache_hit = lambda hashes, most: longest(hashes, min(most, limit))
        try:
            return find_blocks(self, request)
        finally:
            del coordinator.find_longest_cache_hit  # the method of the class is found again

    return get_computed_blocks
