"""Log lines: one JSON object each for machines, or one line of words each for a person.

No event of this server holds a prompt, an answer or a key. What happened is the field `event`;
what is said in words, by libraries too, is the event `message`.
"""

import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

LogFormat = Literal["json", "text"]
LogLevel = Literal["debug", "info", "warning", "error"]
_OURS = ("scen", "scen_serve")
_FIELDS = "scen_fields"


def setup_logs(form: LogFormat, level: LogLevel, is_guest: bool = False) -> None:
    """Write what is told from this level on to stderr, and the warnings of libraries too; in a
    process that is somebody else's (`is_guest`), what this code tells only."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    for name in _OURS:
        logger = logging.getLogger(name)
        logger.setLevel(level.upper())
        if is_guest:
            logger.handlers, logger.propagate = [handler], False
    if not is_guest:
        logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)


def log_event(
    log: logging.Logger, event: str, fields: Mapping[str, Any], level: int = logging.INFO
) -> None:
    """Tell what happened, with figures: values are JSON's."""
    log.log(level, "%s", event, extra={_FIELDS: {"event": event, **fields}})


class JsonLines(logging.Formatter):
    """`{"time": ..., "level": ..., "event": ..., ...}`; times are UTC, in ISO form."""

    def format(self, record: logging.LogRecord) -> str:
        """The record on one line."""
        fields = getattr(record, _FIELDS, None)
        if fields is None:
            words = {"logger": record.name, "message": record.getMessage()}
            fields = {"event": "message", **words}
        head = {"time": _time(record), "level": record.levelname.lower()}
        if record.exc_info:
            fields = fields | {"error": self.formatException(record.exc_info)}
        return json.dumps(head | fields, ensure_ascii=True, default=str)


class TextLines(logging.Formatter):
    """Time, level, what happened, then `name=value` of what there is to tell."""

    def format(self, record: logging.LogRecord) -> str:
        """The record on one line; the trace of an error on those after it."""
        fields = getattr(record, _FIELDS, None)
        words = record.getMessage()
        if fields is not None:
            pairs = [f"{k}={_plain(v)}" for k, v in fields.items() if v is not None]
            words = " ".join([fields["event"], *pairs[1:]])
        line = f"{_time(record)} {record.levelname.lower()} {words}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _time(record: logging.LogRecord) -> str:
    at = datetime.fromtimestamp(record.created, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _plain(value: Any) -> str:
    """The value, in quotes where it is more than one word."""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    is_word = text != "" and text.isascii() and text.isprintable() and not set(text) & set(' "=')
    return text if is_word or not isinstance(value, str) else json.dumps(text)
