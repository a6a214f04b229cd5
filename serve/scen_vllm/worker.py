"""The worker's side of the link to the engine: sends keys, receives experts.

A thread of its own copies experts into slots and sends keys, so that neither delays a step.
"""

import contextlib
import json
import logging
import queue
import threading
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from scen_vllm.step import Step
from scen_vllm.wish import Wish

log = logging.getLogger(__name__)
KEYS, PUT, DONE, FAILED = b"keys", b"put", b"done", b"failed"


@dataclass
class Hooks:
    """What a worker has of the plugin: its step, its part of the input, and its link."""

    step: Step
    tp_rank: int
    width_F: int
    device: torch.device
    link: "WorkerLink | None" = None
    wishes: dict[str, Wish] = field(default_factory=dict)  # V2 runner only, by request

    def send(self, keys: list[tuple[str, Tensor]]) -> None:
        """Send the keys of a step, without waiting for the device."""
        if keys and self.link is not None:
            self.link.send(keys)


class WorkerExtension:
    """Methods of the worker that the engine calls through `collective_rpc`."""

    scen_hooks: Hooks | None

    def scen_connect(self, address: str, rank: int | None = None) -> dict[str, Any]:
        """Connect to the engine; returns what it must know of this rank. Raises RuntimeError
        without the plugin's hooks."""
        hooks = getattr(self, "scen_hooks", None)
        if hooks is None:
            raise RuntimeError("scen_vllm is not active in this worker; see its warnings above")
        own = int(getattr(self, "rank", 0)) if rank is None else rank
        if hooks.link is None:
            hooks.link = WorkerLink(address, own, hooks)
            hooks.link.start()
        return {"rank": own, "tp_rank": hooks.tp_rank, "places": hooks.step.places}

    def scen_fence(self) -> None:
        """Returns after all steps that were scheduled before have been launched: requests that were
        aborted before no longer use their slots."""

    def scen_state(self) -> dict[str, Any]:
        """The names of the experts in slots, and the number of prompts that are partly read."""
        hooks = self.scen_hooks
        assert hooks is not None
        return {"experts": list(hooks.step.bank.names), "reading": hooks.step.num_carried}


@dataclass(frozen=True)
class _Outgoing:
    names: list[str]
    rows: list[int]
    key_NF: Tensor  # on the host, valid after `event`
    event: Any | None


class WorkerLink(threading.Thread):
    """The thread of a worker that talks with the engine, over ZeroMQ."""

    def __init__(self, address: str, rank: int, hooks: Hooks) -> None:
        super().__init__(name="scen-link", daemon=True)
        import zmq

        self._zmq = zmq
        self._context = zmq.Context.instance()
        self._hooks = hooks
        self._outgoing: queue.SimpleQueue[_Outgoing] = queue.SimpleQueue()
        wake = f"inproc://scen-wake-{id(self)}"
        self._woken = self._context.socket(zmq.PULL)
        self._woken.bind(wake)
        self._wake = self._context.socket(zmq.PUSH)  # of the thread that runs the model
        self._wake.connect(wake)
        self._engine = self._context.socket(zmq.DEALER)
        self._engine.setsockopt(zmq.IDENTITY, b"rank-%d" % rank)
        for socket in (self._woken, self._wake, self._engine):
            socket.setsockopt(zmq.LINGER, 0)  # or the process could not end
        self._engine.connect(address)
        on_gpu = hooks.device.type == "cuda"
        self._stream = torch.cuda.Stream(hooks.device) if on_gpu else None
        self._model_stream = torch.cuda.current_stream(hooks.device) if on_gpu else None

    def send(self, keys: list[tuple[str, Tensor]]) -> None:
        """Called by the thread that runs the model."""
        names = [name for name, _ in keys]
        rows = [len(key_NF) for _, key_NF in keys]
        key_NF = torch.cat([key for _, key in keys])
        event = None
        if key_NF.is_cuda:
            pinned = torch.empty(key_NF.shape, dtype=key_NF.dtype, pin_memory=True)
            key_NF = pinned.copy_(key_NF, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
        self._outgoing.put(_Outgoing(names, rows, key_NF, event))
        self._wake.send(b"")

    def run(self) -> None:
        """Forward messages until the process ends."""
        poller = self._zmq.Poller()
        for socket in (self._woken, self._engine):
            poller.register(socket, self._zmq.POLLIN)
        while True:
            ready = dict(poller.poll())
            if self._woken in ready:
                self._woken.recv()
                self._forward(self._outgoing.get())
            if self._engine in ready:
                self._receive(self._engine.recv_multipart(copy=False))

    def _forward(self, keys: _Outgoing) -> None:
        if keys.event is not None:
            keys.event.synchronize()
        header = json.dumps({"names": keys.names, "rows": keys.rows}).encode()
        self._engine.send_multipart([KEYS, header, keys.key_NF.numpy().data])

    def _receive(self, frames: list[Any]) -> None:
        kind, header, *parts = frames
        assert kind.bytes == PUT
        message = json.loads(header.bytes)
        try:
            self._put(message, [bytearray(part.buffer) for part in parts])
        except Exception as error:  # the engine fails the answers that wait for it
            log.exception("an expert could not be copied into its slot")
            self._engine.send_multipart([FAILED, header.bytes, str(error).encode()])
        else:
            self._engine.send_multipart([DONE, header.bytes])

    def _put(self, message: dict[str, Any], parts: list[bytearray]) -> None:
        """Copy an expert into a slot that no scheduled step uses."""
        bank, slot = self._hooks.step.bank, message["slot"]
        bank.names[slot] = None
        stream = self._stream
        with torch.cuda.stream(stream) if stream else contextlib.nullcontext():
            if stream is not None and self._model_stream is not None:
                stream.wait_stream(self._model_stream)  # steps of the slot's last expert
            for (name, shape), part in zip(message["tensors"], parts, strict=True):
                whole = torch.frombuffer(part, dtype=torch.float32).view(shape)
                bank.tensors[name][slot].copy_(self._shard(name, whole))
        if stream is not None:
            stream.synchronize()
        bank.names[slot] = message["name"]

    def _shard(self, name: str, whole: Tensor) -> Tensor:
        """This rank's part: input features are split over ranks, output features are not."""
        if name == "up":
            return whole
        width = self._hooks.width_F
        begin = self._hooks.tp_rank * width
        return whole[..., begin : begin + width]
