"""What MLflow is told of one request: a trace, with a span for each part of the work."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class SpanRecord:
    """A part of a request: `begin` and `end` are UNIX times in seconds."""

    name: str
    begin: float
    end: float
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TraceRecord:
    """One request, under the id that its client knows. `inputs` and `outputs` are its text; None
    where nobody is to read that."""

    name: str
    request_id: str
    begin: float
    end: float
    is_error: bool
    attributes: Mapping[str, Any]
    parts: tuple[SpanRecord, ...]
    inputs: Any = None
    outputs: Any = None
    id: str = field(default_factory=lambda: secrets.token_hex(16))
