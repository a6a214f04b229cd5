"""The rows of the engine: answers that are being given."""

from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scen.snapshot.load import Place
from scen_serve.expert_cache import ExpertCache
from scen_serve.request import Ended, EndReason, Failed, Piece, Ticket, TokenChance
from scen_serve.sampling import choose_token, new_draw, token_chance
from scen_serve.served import ServedSnapshot
from scen_serve.transcript import Transcript


@dataclass
class Row:
    """One answer. `place` is that of its expert, `slot` where on the device it is (-1: none)."""

    ticket: Ticket
    snapshot: ServedSnapshot
    transcript: Transcript
    draw: torch.Generator | None
    place: Place | None = None
    fetching: "Future[None] | None" = None
    slot: int = -1
    last_token: int = -1
    num_tokens: int = 0

    @classmethod
    def of(cls, ticket: Ticket, snapshot: ServedSnapshot, tokenizer: Any) -> "Row":
        """The row of a request whose turn has come."""
        sampling = ticket.request.sampling
        transcript = Transcript(tokenizer, sampling.stop)
        return cls(ticket, snapshot, transcript, new_draw(sampling))

    def is_ready(self, experts: ExpertCache) -> bool:
        """True where the row has its expert, or needs none. Raises what reading the expert did."""
        if self.place is None:
            return True
        if self.fetching is not None and self.fetching.done():
            self.fetching.result()
            self.fetching = None
        slot = experts.acquire(self.place)
        if slot is not None:
            self.slot = slot
        return slot is not None

    def prefetch(self, experts: ExpertCache) -> None:
        """Have the expert read, where it is not in memory and nobody reads it for this row."""
        if self.place and not self.fetching and experts.shelf.find(self.place) is None:
            self.fetching = experts.shelf.prefetch(self.place)

    def release(self, experts: ExpertCache) -> None:
        """Give the slot back."""
        if self.slot >= 0:
            experts.release(self.slot)
            self.slot = -1

    def speak(self, logits_V: Tensor, stop_ids: frozenset[int]) -> bool:
        """Choose the next token and tell it; False where the answer ends with it."""
        sampling = self.ticket.request.sampling
        token = choose_token(logits_V, sampling, self.draw)
        if token in stop_ids:
            return self._end("stop")
        self.last_token, self.num_tokens = token, self.num_tokens + 1
        chances: tuple[TokenChance, ...] = ()
        if sampling.top_logprobs is not None:
            before = self.transcript.length
            chances = (token_chance(logits_V, token, sampling.top_logprobs, before),)
        text = self.transcript.push(token)
        if text or chances:
            self.ticket.tell(Piece(text, chances))
        if self.transcript.is_stopped:
            return self._end("stop")
        return self.num_tokens < sampling.max_tokens or self._end("length")

    def cancel(self) -> None:
        """Tell that nothing more comes."""
        self._tell_end("cancelled")

    def fail(self, error: Exception) -> None:
        """Tell that there is no answer."""
        self.ticket.tell(Failed(error))

    def _end(self, reason: EndReason) -> bool:
        rest = self.transcript.finish()
        if rest:
            self.ticket.tell(Piece(rest))
        self._tell_end("stop" if self.transcript.is_stopped else reason)
        return False

    def _tell_end(self, reason: EndReason) -> None:
        self.ticket.tell(Ended(reason, len(self.ticket.request.prompt.ids), self.num_tokens))
