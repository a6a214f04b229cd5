"""A tiny base that vLLM can run on a CPU, a store of edits on it, and an engine on vLLM."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from conftest import write_tiny_base
from scen.model.base import Base, load_base
from scen.model.keys import KeyPlace
from scen.snapshot.open import OpenStore
from scen_serve.engine.caches import HostExpertCache
from scen_serve.engine.request import Request, Sampling
from scen_serve.engine.snapshots import SnapshotReader
from scen_serve.settings import EngineLimits
from scen_vllm.engine import VllmEngine
from unit.serve.conftest import NEW, Client, make_store

if importlib.util.find_spec("vllm") is None:
    collect_ignore_glob = ["test_*.py"]

# One thread, in child processes too; on CPU vLLM would pin them otherwise.
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
ON_CPU: dict[str, Any] = {
    "enforce_eager": True,
    "kv_cache_memory_bytes": 64 << 20,
    "block_size": 32,
    "max_num_batched_tokens": 128,  # prompts are cut into chunks
}
# Heads of 32: the smallest that vLLM's attention on CPUs takes.
SIZES: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 256}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """vLLM and what it imports warn of many things, which are not errors of these tests."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("default"))


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny base."""
    return write_tiny_base(tmp_path_factory.mktemp("tiny"), **SIZES)


@pytest.fixture(scope="session")
def base(folder: Path) -> Base:
    """The tiny base in float32."""
    return load_base(str(folder), template="llama2-inst", dtype="float32", device="cpu")


def wait_for(clients: Sequence[Client], seconds: float = 240) -> None:
    """Wait until all are answered."""
    until = time.monotonic() + seconds
    while not all(client.is_done for client in clients):
        assert time.monotonic() < until, "some request was never answered"
        time.sleep(0.01)


@dataclass
class Served:
    """A store of 32 edits in two waves, and an engine with eight slots on vLLM."""

    store: OpenStore
    host: HostExpertCache
    reader: SnapshotReader
    engine: VllmEngine

    def ask(self, prompt: str | Request, sampling: Sampling | None = None, **more: Any) -> Client:
        """Hand in a prompt, greedy and 24 tokens long where nothing else is said."""
        client = Client()
        if isinstance(prompt, str):
            encoded = self.store.base.template.encode_prompt(prompt)
            prompt = Request(encoded, sampling or Sampling(NEW), **more)
        client.ticket = self.engine.submit(prompt, client.events.append)
        return client

    def finish(self, clients: Sequence[Client], seconds: float = 240) -> None:
        """Wait until all are answered."""
        wait_for(clients, seconds)
        self.settle()

    def settle(self) -> None:
        """Wait until no answer runs."""
        until = time.monotonic() + 30
        while self.engine.num_running and time.monotonic() < until:
            time.sleep(0.01)

    def assert_idle(self) -> None:
        """Nothing is left of the requests that ended."""
        assert self.engine.num_running == self.engine.num_waiting == 0
        assert self.engine.experts.num_pinned == 0
        assert self.engine._link.num_expected == 0
        assert self.engine._llm.get_num_unfinished_requests() == 0


@pytest.fixture(scope="session")
def served(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """In two processes, as vLLM runs by default."""
    store = make_store(folder, tmp_path_factory.mktemp("served"))
    host = HostExpertCache(store.storage, ("down", "up"), 1 << 30)
    limits = EngineLimits(max_rows=16, max_context=256, expert_slots=8)
    engine = VllmEngine(store, host, limits, ON_CPU)
    reader = SnapshotReader(store, host)
    engine.snapshot = reader.read()
    yield Served(store, host, reader, engine)
    engine.close()


RunLlm = Callable[..., dict[str, Any]]
LAYER, RANK, EXPERTS = 3, 4, 6
PLACES = (KeyPlace(1, "mean"), KeyPlace(3, "span"), KeyPlace(4, "last"))


@pytest.fixture(scope="session")
def run_llm(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> RunLlm:
    """Run stages through vLLM's LLM in a process of its own; keywords as in `run_llm.py`."""
    work = tmp_path_factory.mktemp("jobs")
    draw = torch.Generator().manual_seed(3)
    experts = {
        "down": torch.randn(EXPERTS, RANK, SIZES["intermediate_size"], generator=draw),
        "up": torch.randn(EXPERTS, SIZES["hidden_size"], RANK, generator=draw),
    }
    safetensors.torch.save_file(experts, work / "experts.safetensors")
    settings = {
        "layer": LAYER,
        "places": [[place.layer, place.kind] for place in PLACES],
        "rank": RANK,
        "slots": EXPERTS,
    }

    def run(
        stages: list[dict[str, Any]], *, processes: bool = False, **more: Any
    ) -> dict[str, Any]:
        number = len(list(work.glob("job-*.json")))
        path, out = work / f"job-{number}.json", work / f"out-{number}.json"
        args = ON_CPU | {"dtype": "float32", "max_model_len": 256} | more.pop("args", {})
        job = {"out": str(out), "model": str(folder), "experts": str(work / "experts.safetensors")}
        job |= {"settings": settings, "stages": stages, "args": args, "plain": False} | more
        path.write_text(json.dumps(job))
        environment = os.environ | {"VLLM_ENABLE_V1_MULTIPROCESSING": str(int(processes))}
        script = Path(__file__).with_name("run_llm.py")
        command = [sys.executable, "-P", str(script), str(path)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
        found: dict[str, Any] = json.loads(out.read_text())
        return found

    return run
