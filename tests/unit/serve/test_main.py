"""What a server's arguments ask for is what its engine does."""

import importlib.util

import pydantic
import pytest

from scen.errors import ConfigError
from scen.snapshot.open import OpenStore
from scen_serve.engine.engine import Engine
from scen_serve.main import build_service
from scen_serve.settings import EngineLimits, ServerArgs, VllmSettings, read_vllm


@pytest.mark.parametrize("kept", [0, 1 << 20])
def test_as_many_bytes_are_kept_as_are_asked_for(store: OpenStore, kept: int) -> None:
    service = build_service(ServerArgs(store=store.storage.uri, prefix_bytes=kept))
    assert isinstance(service.engine, Engine)
    assert service.engine.prefixes.max_bytes == kept
    service.stop()


def test_fewer_bytes_than_none_are_refused() -> None:
    with pytest.raises(pydantic.ValidationError, match="prefix_bytes"):
        ServerArgs(store="x", prefix_bytes=-1)


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_without_vllm_its_engine_is_refused_with_the_command_that_installs_it(
    store: OpenStore,
) -> None:
    with pytest.raises(ConfigError, match=r"engine vllm: .*pip install 'scen-platform\[vllm\]'"):
        build_service(ServerArgs(store=store.storage.uri, engine="vllm"))


def test_vllm_gets_what_is_set_and_its_defaults_otherwise() -> None:
    plain = {"tensor_parallel_size": 1, "enable_prefix_caching": True, "enforce_eager": False}
    assert VllmSettings().engine_args(EngineLimits()) == plain
    chosen = {"dtype": "float32", "quantization": "fp8", "gpu_memory_utilization": 0.5}
    settings = VllmSettings(**chosen, kv_cache_bytes=1 << 20, options={"block_size": 32})
    assert settings.engine_args(EngineLimits(prefix_bytes=0)) == plain | chosen | {
        "kv_cache_memory_bytes": 1 << 20,
        "enable_prefix_caching": False,
        "block_size": 32,
    }


def test_options_of_vllm_are_read_by_type() -> None:
    given = ["quantization=fp8", "enforce_eager=true", "block_size=32"]
    expected = VllmSettings(quantization="fp8", enforce_eager=True, options={"block_size": 32})
    assert read_vllm(given) == expected
    assert read_vllm([]) == VllmSettings()
    for wrong in ("enforce_eager", "=1", "tensor_parallel_size=0"):
        with pytest.raises(ConfigError, match="--vllm: "):
            read_vllm([wrong])
