"""What the plugin does within one step of vLLM's model: reads keys, applies experts.

Suffixes: T tokens of the batch, U those that are read, R those on which an expert acts, N ranges
over which keys are averaged, L layers, F and D width of input and output of `down_proj` (F on this
rank), E slots, r rank.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from scen_vllm.wish import Settings, Wish, first_read

_CHUNK = 256  # tokens whose experts are gathered at a time


@dataclass(frozen=True, slots=True)
class Work:
    """One request of a batch: its wish, its first position in the batch, and its token count."""

    request_id: str
    wish: Wish
    begin: int
    count: int


@dataclass(frozen=True, slots=True)
class _Reading:
    """A prompt that is read in this step; its ranges are rows `row` onwards."""

    request_id: str
    wish: Wish
    is_first: bool
    is_last: bool
    row: int

    @property
    def ranges(self) -> list[tuple[int, int]]:
        return _ranges(self.wish)


def _ranges(wish: Wish) -> list[tuple[int, int]]:
    """The last prompt token, then the spans."""
    last = wish["last"]
    return [(last, last + 1), *((begin, end) for begin, end in wish["spans"])]


@dataclass
class _Plan:
    """What the next step does. `token_U` are the tokens that are read; `entry` are indices among
    them, range after range, `offset_N` where each range begins. Experts act on `at_R`."""

    readings: list[_Reading] = field(default_factory=list)
    token_U: Tensor | None = None
    entry: Tensor | None = None
    offset_N: Tensor | None = None
    at_R: Tensor | None = None
    slot_R: Tensor | None = None


class Bank:
    """The experts on this rank, by slot. Rank 0 means whole matrices (method `scen`)."""

    def __init__(self, settings: Settings, shape: tuple[int, int], device: torch.device) -> None:
        """`shape` is D and F of this rank."""
        width_D, width_F = shape
        slots, rank = settings.slots, settings.rank
        self.names: list[str | None] = [None] * slots
        self.tensors = (
            {"weight": torch.zeros(slots, width_D, width_F, device=device)}
            if rank == 0
            else {
                "down": torch.zeros(slots, rank, width_F, device=device),
                "up": torch.zeros(slots, width_D, rank, device=device),
            }
        )

    def apply(self, x_TF: Tensor, y_TD: Tensor, at_R: Tensor, slot_R: Tensor) -> None:
        """Add the experts' terms to these rows of y (or replace them), before the all-reduce."""
        if "weight" in self.tensors:
            for slot in slot_R.unique().tolist():
                at = at_R[slot_R == slot]
                weight_DF = self.tensors["weight"][slot]
                y_TD[at] = (x_TF[at].to(weight_DF.dtype) @ weight_DF.T).to(y_TD.dtype)
            return
        for at, slot in zip(at_R.split(_CHUNK), slot_R.split(_CHUNK), strict=True):
            y_TD.index_add_(0, at, self.delta(x_TF[at], slot).to(y_TD.dtype))

    def delta(self, x_RF: Tensor, slot_R: Tensor) -> Tensor:
        """The low-rank terms, float32 [R, D]; of this rank's part of x, to be summed over ranks."""
        down_RFr = self.tensors["down"][slot_R].transpose(1, 2)
        up_RrD = self.tensors["up"][slot_R].transpose(1, 2)
        return torch.bmm(torch.bmm(x_RF.float()[:, None], down_RFr), up_RrD)[:, 0]


class Step:
    """The state of the plugin in a worker. Used by the thread that runs the model.

    Before a step `plan` says what it does; after it `finish` returns the keys that are complete.
    While a CUDA graph is captured, only operations on static buffers are recorded: a copy of the
    input at each layer that is read, and the expert's term by the slot of each token. They are
    filled by `plan` and read by `finish`, whatever graph is replayed in between.
    """

    def __init__(self, settings: Settings, layers: Sequence[int], bank: Bank, device: torch.device):
        """`layers` are the tapped layers of this rank."""
        self.settings = settings
        self.bank = bank
        self.places = [i for i, (layer, _) in enumerate(settings.places) if layer in layers]
        self._layers = sorted({settings.places[i][0] for i in self.places})
        self._device = device
        self._plan = _Plan()
        self._sums: dict[int, Tensor] = {}  # by layer: sum_NF
        self._carried: dict[str, Tensor] = {}  # by request: sum_LNF of its earlier chunks
        self._inputs: dict[int, Tensor] = {}  # static: x_TF by layer
        self._slot_T: Tensor | None = None  # static: -1 for none

    def make_static(self, max_tokens: int, width_F: int, dtype: torch.dtype) -> None:
        """Allocate the static buffers for graphs of at most `max_tokens` tokens."""
        device = self._device
        self._inputs = {
            layer: torch.zeros(max_tokens, width_F, dtype=dtype, device=device)
            for layer in self._layers
        }
        self._slot_T = torch.full((max_tokens,), -1, device=device)

    def clear(self) -> None:
        """The next step does nothing, such as a dummy run."""
        self._plan = _Plan()
        self._sums.clear()
        if self._slot_T is not None:
            self._slot_T.fill_(-1)

    @property
    def num_carried(self) -> int:
        """Prompts of which only some chunks have been read."""
        return len(self._carried)

    def plan(self, batch: Sequence[Work], alive: Collection[str]) -> None:
        """Plan the next step for a batch in order. `alive` are all requests that have not ended:
        the partial keys of others are dropped. Raises RuntimeError if an expert is not in its slot.
        """
        self.clear()
        for gone in [name for name in self._carried if name not in alive]:
            del self._carried[gone]
        offset = 0
        tokens: list[np.ndarray] = []
        entries: list[np.ndarray] = []
        speaking: list[tuple[int, int, int]] = []
        for work in batch:
            wish, end = work.wish, work.begin + work.count
            if "key" in wish and work.begin <= wish["last"]:
                base = sum(map(len, tokens))
                self._plan_reading(work, offset, base, tokens, entries)
            elif "expert" in wish and end > wish["start"]:
                self._require(wish)
                first = offset + max(0, wish["start"] - work.begin)
                speaking.append((first, offset + work.count, wish["slot"]))
            offset += work.count
        if tokens:
            lengths = [len(entry) for entry in entries]
            offset_N = np.cumsum([0, *lengths[:-1]])
            self._plan.token_U = self._tensor(np.concatenate(tokens))
            self._plan.entry = self._tensor(np.concatenate(entries))
            self._plan.offset_N = self._tensor(offset_N)
        if speaking:
            self._plan_speaking(speaking)

    def run(self, x_TF: Tensor, y_TD: Tensor, layer: int) -> None:
        """The op after `down_proj` of a layer, outside of graphs."""
        if layer in self._layers and self._plan.readings:
            self._sums[layer] = self._sum(x_TF)
        plan = self._plan
        if layer == self.settings.layer and plan.at_R is not None and plan.slot_R is not None:
            self.bank.apply(x_TF, y_TD, plan.at_R, plan.slot_R)

    def record(self, x_TF: Tensor, y_TD: Tensor, layer: int) -> None:
        """The op while a graph is captured: operations on tensors only."""
        count = len(x_TF)
        if layer in self._inputs:
            self._inputs[layer][:count].copy_(x_TF)
        if layer == self.settings.layer and self._slot_T is not None:
            slot_T = self._slot_T[:count]
            delta_TD = self.bank.delta(x_TF, slot_T.clamp_min(0)).to(y_TD.dtype)
            y_TD.copy_(torch.where((slot_T >= 0)[:, None], y_TD + delta_TD, y_TD))

    def finish(self) -> list[tuple[str, Tensor]]:
        """After a step: the keys that are complete, by name, each float32 [rows, F].

        The rows are those of the places of this rank in order: one of a place `last` or `mean`, one
        per span of a place `span`.
        """
        readings, self._plan.readings = self._plan.readings, []
        if not readings or not self._layers:
            return []
        if not self._sums:  # a graph was replayed
            self._sums = {layer: self._sum(x_TF) for layer, x_TF in self._inputs.items()}
        sum_LNF = torch.stack([self._sums[layer] for layer in self._layers])
        done = []
        for reading in readings:
            part_LNF = sum_LNF[:, reading.row : reading.row + len(reading.ranges)]
            carried = self._carried.pop(reading.request_id, None)
            if not reading.is_first:
                if carried is None:
                    raise RuntimeError(f"the beginning of {reading.request_id} was not read")
                part_LNF = carried + part_LNF
            if reading.is_last:
                done.append((reading.wish["key"], self._keys(part_LNF, reading)))
            else:
                self._carried[reading.request_id] = part_LNF.clone()
        return done

    def _plan_reading(
        self,
        work: Work,
        offset: int,
        base: int,
        tokens: list[np.ndarray],
        entries: list[np.ndarray],
    ) -> None:
        wish, end = work.wish, work.begin + work.count
        first = first_read(wish)
        begin = max(work.begin, first)
        is_last = end > wish["last"]
        tokens.append(np.arange(offset + begin - work.begin, offset + work.count))
        reading = _Reading(work.request_id, wish, work.begin <= first, is_last, len(entries))
        for low, high in reading.ranges:
            entries.append(base - begin + np.arange(max(low, begin), max(begin, min(high, end))))
        self._plan.readings.append(reading)

    def _plan_speaking(self, speaking: Sequence[tuple[int, int, int]]) -> None:
        """The tokens of these half-open ranges use these slots."""
        at = np.concatenate([np.arange(first, end) for first, end, _ in speaking])
        slot = np.concatenate([np.full(end - first, slot) for first, end, slot in speaking])
        self._plan.at_R, self._plan.slot_R = self._tensor(at), self._tensor(slot)
        if self._slot_T is not None and at[-1] < len(self._slot_T):  # else no graph is replayed
            self._slot_T[self._plan.at_R] = self._plan.slot_R

    def _require(self, wish: Wish) -> None:
        if self.bank.names[wish["slot"]] != wish["expert"]:
            raise RuntimeError(f"expert {wish['expert']} is not in slot {wish['slot']}")

    def _sum(self, x_TF: Tensor) -> Tensor:
        """sum_NF float32: the inputs summed over each range, as far as it is in this batch."""
        plan = self._plan
        assert plan.token_U is not None
        assert plan.entry is not None
        x_UF = x_TF[plan.token_U].float()
        return functional.embedding_bag(plan.entry, x_UF, plan.offset_N, mode="sum")

    def _keys(self, sum_LNF: Tensor, reading: _Reading) -> Tensor:
        lengths = [max(1, high - low) for low, high in reading.ranges]
        mean_LNF = sum_LNF / torch.tensor(lengths, device=sum_LNF.device)[:, None]
        rows = {"last": slice(0, 1), "mean": slice(1, 2), "span": slice(2, None)}
        parts = []
        for index in self.places:
            layer, kind = self.settings.places[index]
            parts.append(mean_LNF[self._layers.index(layer), rows[kind]])
        return torch.cat(parts)

    def _tensor(self, values: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(values.astype(np.int64))
        if self._device.type == "cuda":
            return tensor.pin_memory().to(self._device, non_blocking=True)
        return tensor.to(self._device)
