"""The engine's side of the link to vLLM's workers: receives keys, sends experts.

Messages go from process to process, not through vLLM's scheduler: keys come in one message per step
and worker, and an expert is copied into its slot while steps run.
"""

import asyncio
import json
import logging
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scen.model.keys import KeyPlace
from scen_vllm.worker import DONE, FAILED, HELLO, KEYS, PUT

log = logging.getLogger(__name__)
_CONNECT_S = 60.0
Key = list[Tensor]
"""The key of a prompt: of each place float32 [rows, F], one row or one per span."""


@dataclass
class _Expected:
    future: "asyncio.Future[Key]"
    parts: dict[bytes, dict[int, Tensor]] = field(default_factory=dict)  # by rank and place


class WorkersLink:
    """A socket for the workers of one engine. Used on one event loop."""

    def __init__(self, places: tuple[KeyPlace, ...], address: str | None = None) -> None:
        """Listen at `address` (None: a socket in a private folder, for workers on this machine;
        `tcp://HOST:*` for workers on others). Keys are read at `places`."""
        import zmq
        import zmq.asyncio

        self._folder = None if address else Path(tempfile.mkdtemp(prefix="scen-vllm-"))
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)  # raises instead of dropping messages
        self._socket.bind(address or f"ipc://{self._folder}/workers")
        self.address = self._socket.getsockopt(zmq.LAST_ENDPOINT).decode().rstrip("\0")
        self._ranks: dict[bytes, dict[str, Any]] = {}
        self._places = places
        self._keys: dict[str, _Expected] = {}
        self._puts: dict[int, tuple[asyncio.Future[None], set[bytes]]] = {}

    async def connect(self, llm: Any) -> None:
        """Connect all workers of an AsyncLLM. Raises TimeoutError if one cannot be reached."""
        message = await llm.collective_rpc("scen_connect", args=(self.address,))
        self._ranks = {b"rank-%d" % rank["rank"]: rank for rank in message}
        missing = set(self._ranks)
        while missing:  # a message to a worker whose connection is not complete would be lost
            rank, kind = await asyncio.wait_for(self._socket.recv_multipart(), _CONNECT_S)
            assert kind == HELLO
            missing.discard(rank)

    @property
    def num_expected(self) -> int:
        """Keys that are waited for."""
        return len(self._keys)

    def expect(self, name: str) -> "asyncio.Future[Key]":
        """The key of a prompt, once it is read."""
        expected = _Expected(asyncio.get_running_loop().create_future())
        self._keys[name] = expected
        return expected.future

    def forget(self, name: str) -> None:
        """Expect a key no longer."""
        self._keys.pop(name, None)

    async def put(self, slot: int, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Copy an expert into a slot of all workers. Raises RuntimeError if one of them cannot."""
        future = asyncio.get_running_loop().create_future()
        self._puts[slot] = future, set(self._ranks)
        shapes = [(n, list(tensor.shape)) for n, tensor in tensors.items()]
        header = json.dumps({"slot": slot, "name": name, "tensors": shapes}).encode()
        parts = [tensor.float().contiguous().numpy().data for tensor in tensors.values()]
        try:
            for rank in self._ranks:
                await self._socket.send_multipart([rank, PUT, header, *parts])
            await future
        finally:
            self._puts.pop(slot, None)

    async def receive(self) -> None:
        """Handle messages until cancelled."""
        while True:
            rank, kind, header, *rest = await self._socket.recv_multipart(copy=False)
            message = json.loads(header.bytes)
            if kind.bytes == KEYS:
                self._take_keys(rank.bytes, message, rest[0].buffer)
            elif message["slot"] in self._puts:
                self._take_put(rank.bytes, kind.bytes, message["slot"], rest)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close(0)
        self._context.term()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _take_keys(self, rank: bytes, message: dict[str, Any], data: Any) -> None:
        key_NF = torch.frombuffer(bytearray(data), dtype=torch.float32).view(
            sum(message["rows"]), -1
        )
        readers = sum(bool(known["places"]) for known in self._ranks.values())
        for name, key in zip(message["names"], key_NF.split(message["rows"]), strict=True):
            expected = self._keys.get(name)
            if expected is None:  # cancelled, or read again after preemption
                continue
            expected.parts[rank] = self._by_place(self._ranks[rank]["places"], key)
            if len(expected.parts) == readers:
                del self._keys[name]
                if not expected.future.done():
                    expected.future.set_result(self._joined(expected.parts))

    def _by_place(self, numbers: list[int], key_NF: Tensor) -> dict[int, Tensor]:
        """The rows of each place of a rank."""
        is_span = [self._places[number].kind == "span" for number in numbers]
        num_spans = (len(key_NF) - is_span.count(False)) // max(1, is_span.count(True))
        rows = key_NF.split([num_spans if spans else 1 for spans in is_span])
        return dict(zip(numbers, rows, strict=True))

    def _joined(self, parts: dict[bytes, dict[int, Tensor]]) -> Key:
        """The parts of tensor parallel ranks side by side, place by place."""
        ranks = sorted(parts, key=lambda rank: int(self._ranks[rank]["tp_rank"]))
        return [
            torch.cat([parts[rank][place] for rank in ranks if place in parts[rank]], -1)
            for place in range(len(self._places))
        ]

    def _take_put(self, rank: bytes, kind: bytes, slot: int, rest: list[Any]) -> None:
        future, missing = self._puts[slot]
        missing.discard(rank)
        if future.done():
            return
        if kind == FAILED:
            future.set_exception(RuntimeError(rest[0].bytes.decode()))
        elif kind == DONE and not missing:
            future.set_result(None)
