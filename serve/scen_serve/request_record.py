"""What is known of one HTTP request and its answers, for its log line and its trace."""

import re
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from scen_serve.request import Ended, Event, Failed, Piece, Routed, Sink

_ID = re.compile(r"[A-Za-z0-9._:-]{1,80}")


def request_id(told: str | None) -> str:
    """The id that the client gave its request, where it is one; else a new one."""
    return told if told is not None and _ID.fullmatch(told) else uuid.uuid4().hex


@dataclass
class AnswerRecord:
    """One answer. Moments are of `time.perf_counter`. Filled in by the engine's thread."""

    began: float = field(default_factory=time.perf_counter)
    routed: Routed | None = None
    routed_at: float | None = None
    first_at: float | None = None
    ended: Ended | Failed | None = None
    ended_at: float | None = None
    text: str = ""

    def add(self, event: Event, with_text: bool) -> None:
        """Take in an event."""
        now = time.perf_counter()
        if isinstance(event, Routed):
            self.routed, self.routed_at = event, now
        elif isinstance(event, Piece):
            self.first_at = self.first_at or now
            self.text += event.text if with_text else ""
        else:
            self.ended, self.ended_at = event, now

    @property
    def reason(self) -> str:
        """How it ended; an answer without an end was cancelled with its request."""
        if isinstance(self.ended, Failed):
            return "failed"
        return "cancelled" if self.ended is None else self.ended.reason


@dataclass
class RequestRecord:
    """One HTTP request. `at` is UNIX time in seconds, `began` the same moment as `perf_counter`
    tells it. Of asks: `is_edited` is False where the base was asked for; `prompts` are kept, with
    the text of the answers, only where a trace is to have them."""

    id: str
    method: str
    path: str
    key: str | None = None
    status: int = 500  # of one that nobody answers
    is_edited: bool = True
    is_traced: bool = False
    with_text: bool = False
    prompts: Sequence[Any] = ()
    answers: list[AnswerRecord] = field(default_factory=list)
    at: float = field(default_factory=time.time)
    began: float = field(default_factory=time.perf_counter)
    seconds: float = 0.0

    def watch(self, sink: Sink) -> Sink:
        """The same sink, and what it is told is kept as an answer of this request."""
        answer = AnswerRecord()
        self.answers.append(answer)

        def told(event: Event) -> None:
            answer.add(event, self.with_text)
            sink(event)

        return told

    @property
    def is_whole(self) -> bool:
        """True where nothing more is to come: a request that failed may have answers without an
        end, as they never began."""
        return self.status >= 400 or all(answer.ended is not None for answer in self.answers)

    def fields(self) -> dict[str, Any]:
        """The figures of the request. Of several answers: the route of the first, tokens of all."""
        found = {
            "request_id": self.id,
            "key": self.key,
            "method": self.method,
            "path": self.path,
            "status": self.status,
            "seconds": round(self.seconds, 4),
        }
        return found | self._asked() if self.answers else found

    def _asked(self) -> dict[str, Any]:
        first = self.answers[0]
        routed, ended = first.routed, [a.ended for a in self.answers if isinstance(a.ended, Ended)]
        told = [a.first_at for a in self.answers if a.first_at is not None]
        edit_id = None if routed is None else routed.edit_id
        route = ("base" if edit_id is None else "edit") if self.is_edited else "off"
        return {
            "route": None if routed is None else route,
            "edit_id": edit_id,
            "score": None if routed is None or routed.score is None else round(routed.score, 4),
            "version": None if routed is None else routed.version,
            "answers": len(self.answers),
            "prompt_tokens": sum(end.prompt_tokens for end in ended),
            "new_tokens": sum(end.completion_tokens for end in ended),
            "first_token_seconds": round(min(told) - self.began, 4) if told else None,
            "reason": "failed" if self.status >= 400 else first.reason,
        }
