"""One field at a time: the checked value, or a FieldError with the reason and the fix."""

import json
import re
from datetime import UTC, date, datetime
from typing import Any

from scen.ingest.rows import FieldError
from scen.records import Rephrase

# control characters other than tab and line feed, lone surrogates, U+FFFD, noncharacters
BAD_CHARACTER = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffd\ufdd0-\ufdef\ufffe\uffff]"
)
SURROGATE = re.compile("[\ud800-\udfff]")
REPHRASE_KEYS = {"text", "source"}
ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")


def read_id(value: Any) -> str:
    """An id of an edit. Raises FieldError."""
    if not isinstance(value, str):
        raise _wrong_type("id", value, "a string")
    if not ID.fullmatch(value):
        raise FieldError(
            "id",
            "must be 1 to 128 of the characters A-Z a-z 0-9 . _ : - and start with a letter "
            "or digit: rename it, or leave it out to get one made from the content",
        )
    return value


def read_text(value: Any, field: str, limit: int) -> str:
    """Text that must say something, without the space around it. Raises FieldError."""
    if value is None:
        raise FieldError(field, f"is missing: give the {field} as a string")
    if not isinstance(value, str):
        raise _wrong_type(field, value, "a string")
    if bad := BAD_CHARACTER.search(value):
        raise FieldError(field, _bad_character(bad.group()))
    text = value.strip()
    if not any(map(str.isprintable, text)):
        raise FieldError(field, "is empty: write some text, or leave the row out")
    if len(text) > limit:
        raise FieldError(field, f"is {len(text)} characters long, the limit is {limit}: shorten it")
    return text


def read_optional_text(value: Any, field: str, limit: int) -> str | None:
    """Text that may be missing or empty. Raises FieldError."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    return read_text(value, field, limit)


def read_texts(value: Any, field: str, limit: int) -> tuple[str, ...]:
    """A list of texts; missing is none. Raises FieldError naming the entry."""
    items = _read_list(value, field)
    return tuple([read_text(item, f"{field}[{i}]", limit) for i, item in enumerate(items)])


def read_rephrases(value: Any, limit: int) -> tuple[Rephrase, ...]:
    """A list of texts, or of objects with `text` and perhaps `source`. Raises FieldError."""
    items = _read_list(value, "rephrases")
    return tuple([_read_rephrase(item, f"rephrases[{i}]", limit) for i, item in enumerate(items)])


def _read_rephrase(value: Any, field: str, limit: int) -> Rephrase:
    if not isinstance(value, dict):
        return Rephrase(read_text(value, field, limit))
    if not value.keys() <= REPHRASE_KEYS:
        raise FieldError(field, f"has the keys {sorted(value)}: use text and source only")
    source = read_optional_text(value.get("source"), f"{field}.source", limit)
    text = read_text(value.get("text"), field, limit)
    return Rephrase(text, source) if source else Rephrase(text)


def read_moment(value: Any, field: str) -> datetime | None:
    """A time in UTC from ISO 8601 text, a datetime or a date; without a zone it is UTC. Raises
    FieldError.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        moment = datetime.fromisoformat(value.strip()) if isinstance(value, str) else value
        if isinstance(moment, date) and not isinstance(moment, datetime):
            moment = datetime(moment.year, moment.month, moment.day)
        if not isinstance(moment, datetime):
            raise _wrong_type(field, value, "a time")
        utc = moment.astimezone(UTC) if moment.tzinfo else moment
        return datetime.combine(utc.date(), utc.time(), UTC)
    except (ValueError, OverflowError) as err:
        if isinstance(err, FieldError):
            raise
        raise FieldError(field, "is no ISO 8601 time: write it as 2026-01-31T12:00:00Z") from err


def read_metadata(value: Any) -> dict[str, str]:
    """Names and texts; other values become JSON text, null ones are left out. Raises FieldError."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _wrong_type("metadata", value, "an object")
    texts = {
        str(name): _as_text(item, str(name)) for name, item in value.items() if item is not None
    }
    for name, text in texts.items():
        if bad := SURROGATE.search(name + text):
            raise FieldError(f"metadata.{name}", _bad_character(bad.group()))
    return texts


def _as_text(value: Any, name: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, date):
        return value.isoformat()
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except RecursionError as err:
        raise FieldError(f"metadata.{name}", "is nested too deeply: flatten it") from err


def _read_list(value: Any, field: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise _wrong_type(field, value, "a list")
    return value


def _wrong_type(field: str, value: Any, wanted: str) -> FieldError:
    fix = "put it in quotes" if wanted == "a string" else f"write it as {wanted}"
    return FieldError(field, f"must be {wanted}, not {_type_name(value)}: {fix}")


def _type_name(value: Any) -> str:
    if isinstance(value, bool):
        return "true or false"
    names = {dict: "an object", list: "a list", str: "a string", int: "a number", float: "a number"}
    return names.get(type(value), type(value).__name__)


def _bad_character(char: str) -> str:
    code = f"U+{ord(char):04X}"
    if "\ud800" <= char <= "\udfff":
        return f"holds {code}, half of a surrogate pair: write the whole character"
    if char == "\ufffd":
        return f"holds {code}, the mark of text lost in decoding: restore it from its source"
    return f"holds the character {code}, which has no place in text: remove it"
