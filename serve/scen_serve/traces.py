"""A share of the requests, told to MLflow part by part: wait, prefill, route, decode."""

import random
from collections.abc import Sequence
from typing import Any

from scen.tracking.traces import SpanRecord, TraceRecord, TraceWriter
from scen_serve.request import Failed
from scen_serve.request_record import AnswerRecord, RequestRecord


class Traces:
    """Chooses a `share` of the requests (0 to 1) and hands them to the writer when they are over.

    Prompts and answers are told only `with_text`.
    """

    def __init__(self, writer: TraceWriter, share: float, with_text: bool = False) -> None:
        self.writer = writer
        self._share = share
        self._with_text = with_text

    def choose(self, record: RequestRecord, prompts: Sequence[Any]) -> None:
        """Decide, before its answers begin, whether a request is traced."""
        record.is_traced = random.random() < self._share
        if record.is_traced and self._with_text:
            record.with_text, record.prompts = True, prompts

    def keep(self, record: RequestRecord) -> None:
        """Hand a request over that was chosen. Never waits."""
        if record.is_traced:
            self.writer.offer(trace_of(record))


def trace_of(record: RequestRecord) -> TraceRecord:
    """The trace of a request that is over: its figures are those of its line in the log."""
    has_failed = any(isinstance(answer.ended, Failed) for answer in record.answers)
    return TraceRecord(
        name=record.path.removeprefix("/v1/"),
        request_id=record.id,
        begin=record.at,
        end=record.at + record.seconds,
        is_error=has_failed or record.status >= 400,
        attributes=record.fields(),
        parts=tuple(part for answer in record.answers for part in _parts(record, answer)),
        inputs=list(record.prompts) if record.with_text else None,
        outputs=[answer.text for answer in record.answers] if record.with_text else None,
    )


def _parts(record: RequestRecord, answer: AnswerRecord) -> list[SpanRecord]:
    """What an answer went through, as far as it came."""
    routed, routed_at = answer.routed, answer.routed_at
    if routed is None or routed_at is None:
        return []
    shift = record.at - record.began
    route_at = routed_at - routed.route_s
    read_at = route_at - routed.prefill_s
    route = {"edit_id": routed.edit_id, "score": routed.score, "version": routed.version}
    told = [
        ("wait", answer.began, read_at, {}),
        (
            "prefill",
            read_at,
            route_at,
            {"prompt_tokens": getattr(answer.ended, "prompt_tokens", None)},
        ),
        ("route", route_at, routed_at, route),
    ]
    if answer.ended_at is not None:
        first = None if answer.first_at is None else round(answer.first_at - routed_at, 4)
        figures = {
            "new_tokens": getattr(answer.ended, "completion_tokens", None),
            "first_token_seconds": first,
            "reason": answer.reason,
        }
        told.append(("decode", routed_at, answer.ended_at, figures))
    return [SpanRecord(name, shift + a, shift + b, figures) for name, a, b, figures in told]
