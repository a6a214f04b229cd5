"""vLLM's own KV cache manager with the hooks, without a model."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

pytestmark = [pytest.mark.vllm, pytest.mark.slow]  # imports vLLM
BLOCK = 16
START = 40  # within the third block
Hit = Callable[[list[int], dict[str, Any] | None], int]


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM without hooks; what a test installs is removed."""
    from vllm.v1.core import block_pool, kv_cache_utils
    from vllm.v1.core.kv_cache_manager import KVCacheManager
    from vllm.v1.simple_kv_offload import manager

    for module in (kv_cache_utils, block_pool, manager):
        name = "generate_block_hash_extra_keys"
        monkeypatch.setattr(module, name, getattr(module, name))
    found = KVCacheManager.get_computed_blocks
    monkeypatch.setattr(KVCacheManager, "get_computed_blocks", found)


def new_cache() -> Hit:
    """A cache of 64 blocks; each call is a request that computes all its tokens, and returns how
    many were cached."""
    from vllm import SamplingParams
    from vllm.utils.hashing import sha256
    from vllm.v1.core.kv_cache_manager import KVCacheManager
    from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
    from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
    from vllm.v1.request import Request

    init_none_hash(sha256)
    spec = FullAttentionSpec(block_size=BLOCK, num_kv_heads=1, head_size=8, dtype=torch.float32)
    config = KVCacheConfig(64, [], [KVCacheGroupSpec(["layer"], spec)])
    manager = KVCacheManager(config, 512, BLOCK, BLOCK)
    hasher = get_request_block_hasher(BLOCK, sha256)
    count = 0

    def run(ids: list[int], wish: dict[str, Any] | None) -> int:
        nonlocal count
        count += 1
        params = SamplingParams(max_tokens=1, extra_args={"scen": wish} if wish else None)
        request = Request(str(count), ids, params, None, block_hasher=hasher)
        blocks, cached, _ = manager.get_computed_blocks(request)
        taken = manager.allocate_slots(request, len(ids) - cached, cached, blocks)
        assert taken is not None
        manager.free(request)
        return int(cached)

    return run


def wish(expert: str, start: int = START) -> dict[str, Any]:
    """The wish for an expert."""
    return {"expert": expert, "slot": 0, "start": start}


IDS = list(range(100))
WHOLE = 96  # all full blocks


def test_blocks_of_experts_are_their_own(plain: None) -> None:
    from scen_vllm.prefix_cache import patch_prefix_cache

    patch_prefix_cache()
    run = new_cache()
    before = START // BLOCK * BLOCK
    assert run(IDS, wish("a")) == 0
    assert run(IDS, None) == before  # the blocks on which no expert acted
    assert run(IDS, wish("b")) == before
    assert run(IDS, wish("a")) == WHOLE
    assert run(IDS, None) == WHOLE
    assert run(IDS, wish("a", START + 1)) == before  # the block has one token less of the expert
    assert run([*IDS, *IDS], wish("b")) == WHOLE
    assert run(IDS, wish("c", 0)) == 0  # method scen: experts act on the whole prompt


def test_a_prompt_that_is_read_is_computed_from_what_is_read_on(plain: None) -> None:
    from scen_vllm.prefix_cache import patch_prefix_cache

    patch_prefix_cache()
    run = new_cache()
    assert run(IDS, None) == 0
    key = {"key": "k", "spans": [[50, 90], [60, 70]], "last": 99}
    assert run(IDS, key) == 48
    assert run(IDS, key | {"spans": [[10, 90]]}) == 0
    assert run(IDS, {"key": "k", "spans": [], "last": 99}) == WHOLE
    assert run(IDS, None) == WHOLE  # others are not limited


def test_without_the_hooks_blocks_of_experts_would_be_taken_for_the_base_s(plain: None) -> None:
    """The control of both tests above. vLLM may have the hooks installed by its plugins."""
    from scen_vllm import plugin

    if plugin._done:
        pytest.skip("this process has the hooks already")
    run = new_cache()
    assert run(IDS, wish("a")) == 0
    assert run(IDS, None) == WHOLE
    assert run(IDS, {"key": "k", "spans": [[10, 90]], "last": 99}) == WHOLE
