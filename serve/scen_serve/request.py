"""What is asked of the engine, and what it tells back, event by event."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from scen.errors import ScenError
from scen.records import EncodedPrompt

if TYPE_CHECKING:
    from scen_serve.served import ServedSnapshot

log = logging.getLogger(__name__)
EndReason = Literal["stop", "length", "cancelled"]


class BusyError(ScenError, RuntimeError):
    """Nothing is wrong with the request: there is no room, or no snapshot yet. Ask again later."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen, and when to end.

    `temperature` 0 is greedy. `seed` None draws another answer each time. `top_logprobs` None
    tells no probabilities, n those of each chosen token and of the n likeliest.
    """

    max_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    top_logprobs: int | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt and how to answer it. `snapshot` None is the one served when its turn comes;
    with `is_edited` False the base answers, whatever the router says."""

    prompt: EncodedPrompt
    sampling: Sampling = field(default_factory=Sampling)
    snapshot: "ServedSnapshot | None" = None
    is_edited: bool = True


@dataclass(frozen=True, slots=True)
class Routed:
    """The first event: which version answers, by which edit (None: the base), and which part of
    the message asked for it (None also where the whole of it is always taken).

    `prefill_s` and `route_s` are the seconds that reading and routing took, for all prompts that
    were read together."""

    version: int
    edit_id: str | None
    score: float | None  # of the nearest edit; None where there is no edit or routing is off
    span: str | None = None
    prefill_s: float = 0.0
    route_s: float = 0.0


@dataclass(frozen=True, slots=True)
class TokenChance:
    """A chosen token, its log-probability, and the likeliest tokens with theirs. `offset` is the
    number of characters of the answer before it."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Piece:
    """More of the answer. Text may lag behind tokens, and may be empty."""

    text: str
    chances: tuple[TokenChance, ...] = ()


@dataclass(frozen=True, slots=True)
class Ended:
    """The last event of an answer."""

    reason: EndReason
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The last event where there is no answer."""

    error: Exception


Event = Routed | Piece | Ended | Failed
Sink = Callable[[Event], None]
"""Called by the engine's thread with each event of a request, in order; must not wait."""


class Ticket:
    """A request that was handed in, and the way to withdraw it."""

    def __init__(self, request: Request, sink: Sink) -> None:
        self.request = request
        self.sink = sink
        self.is_cancelled = False

    def tell(self, event: Event) -> None:
        """Hand an event to the client; one who cannot take it has gone away."""
        try:
            self.sink(event)
        except Exception:
            log.warning("a client can no longer be told", exc_info=True)
            self.cancel()

    def cancel(self) -> None:
        """Free the row at the engine's next step."""
        self.is_cancelled = True
