"""The batch that runs: its rows, their keys and values, and one token of each at a time."""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from scen.model.base import Base
from scen.model.decode import EditedModel, apply_experts, copy_cache
from scen.model.route import Route, SigmoidNeurons
from scen.model.step import RowCache, step_rows
from scen_serve.expert_cache import ExpertCache
from scen_serve.prompt_reader import Arrivals
from scen_serve.rows import Row

log = logging.getLogger(__name__)


class RunningBatch:
    """At most `max_rows` answers. A row that ends leaves at once and gives its expert back."""

    def __init__(self, base: Base, layer: int, experts: ExpertCache, max_rows: int) -> None:
        # The experts are chosen by each row's own snapshot, never by this model.
        none = SigmoidNeurons(layer, torch.zeros(0, base.model.config.intermediate_size), 1.0)
        self._edited = EditedModel(
            base.model, layer, experts.bank, none, base.pad_id, base.stop_ids
        )
        self._experts = experts
        self._rows: list[Row] = []
        self._cache = RowCache(max_rows)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def num_bytes(self) -> int:
        """Of keys and values."""
        return self._cache.num_bytes

    def begin(self, group: Arrivals, ready: Sequence[int]) -> None:
        """The first token of these rows of a prefill, which they leave; those that go on join the
        batch."""
        filled = group.filled
        cache = copy_cache(filled.cache)
        logits_BV = apply_experts(self._edited, filled, group.slots(ready), cache)
        for index in ready:
            row = group.rows.pop(index)
            if self._speak(row, logits_BV[index]) and self._join(row, cache, index):
                self._rows.append(row)
            else:
                row.release(self._experts)

    def advance(self) -> None:
        """One more token of each row; those that end leave."""
        device = self._edited.model.device
        token_B = torch.tensor([row.last_token for row in self._rows], device=device)
        route = Route.fixed([row.slot for row in self._rows], device)
        logits_BV = step_rows(self._edited, self._cache, token_B, route)
        for index in reversed(range(len(self._rows))):
            if not self._speak(self._rows[index], logits_BV[index]):
                self._leave(index)

    def drop_cancelled(self) -> None:
        """Let the rows of clients who went away leave."""
        for index in reversed(range(len(self._rows))):
            if self._rows[index].ticket.is_cancelled:
                self._rows[index].cancel()
                self._leave(index)

    def fail(self, error: Exception) -> None:
        """End all rows with an error."""
        for index in reversed(range(len(self._rows))):
            self._rows[index].fail(error)
            self._leave(index)

    def _speak(self, row: Row, logits_V: Tensor) -> bool:
        """One token of a row; False where its answer ends, if only by an error of its own."""
        try:
            return row.speak(logits_V, self._edited.stop_ids)
        except Exception as error:
            log.exception("an answer failed")
            row.fail(error)
            return False

    def _join(self, row: Row, cache: Any, index: int) -> bool:
        """Take over a row's keys and values; False where there is no room, which ends its answer
        with an error."""
        try:
            self._cache.join(cache, index, len(row.ticket.request.prompt.ids))
        except Exception as error:
            log.exception("an answer could not join the batch")
            row.fail(error)
            return False
        return True

    def _leave(self, index: int) -> None:
        self._rows[index].release(self._experts)
        self._cache.leave(index)
        self._rows[index] = self._rows[-1]
        self._rows.pop()
