"""Validation of rows: each becomes an `Edit`, or a `Rejection` with the reason."""

import copy
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from hashlib import blake2b
from typing import Any

from scen.data.rows import NO_NUMBER, FieldError, Quoted, RawRow, Rejection, is_null_text, reject
from scen.records import Edit, Rephrase, digest_json
from scen.text import END_MARKS, name_hidden, normalise

Tokenize = Callable[[str], Sequence[int]]
FindNames = Callable[[str], Sequence[str]]
Statement = tuple[bytes, int]

# control characters other than tab and line feed, lone surrogates, U+FFFD, noncharacters
BAD_CHARACTER = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffd\ufdd0-\ufdef\ufffe\uffff]"
)
SURROGATE = re.compile("[\ud800-\udfff]")
REPHRASE_KEYS = {"text", "source"}
ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")


@dataclass(frozen=True, slots=True)
class Limits:
    """Maximum lengths of texts. Every text but the target has the limits of a prompt."""

    max_prompt_chars: int = 8000
    max_target_chars: int = 2000
    max_prompt_tokens: int = 2048
    max_target_tokens: int = 256


class Validator:
    """Checks the rows of one wave, across all its files. `tokenize` turns text into the ids of
    the base's tokens, without special tokens; `unk_id` is its id for unknown text.
    `control_names` lists the control tokens whose names occur in a target. With `may_contradict`
    a row may contradict an earlier one, and admission decides. With `allow_null_text` words such
    as "None" and "N/A" are normal text, not missing values that a program wrote.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        tokenize: Tokenize | None = None,
        unk_id: int | None = None,
        *,
        control_names: FindNames = lambda _: (),
        may_contradict: bool = False,
        allow_null_text: bool = False,
    ) -> None:
        self.limits = limits or Limits()
        self._tokenize = tokenize
        self._unk_id = unk_id
        self._control_names = control_names
        self._allow_null_text = allow_null_text
        self._seen = SeenEdits(may_contradict)

    def check(self, row: RawRow) -> Edit | Rejection:
        """The edit in the row, or its rejection."""
        try:
            if row.fault is not None:
                raise row.fault
            edit = self._read(row)
            self._check_tokens(edit)
            self._seen.add(edit, row.number)
        except FieldError as err:
            return reject(row, err)
        return edit

    def fork(self) -> "Validator":
        """An independent copy, which has seen the same rows."""
        other = copy.copy(self)
        other._seen = self._seen.copy()
        return other

    def _read(self, row: RawRow) -> Edit:
        values, limit = row.fields, self.limits.max_prompt_chars
        if not self._allow_null_text:
            for name in ("prompt", "target", "subject"):
                _refuse_null_text(values.get(name), name)
        edit = Edit(
            id=read_id(values["id"]) if "id" in values else "",
            prompt=_read_prompt(values.get("prompt"), limit),
            target=read_text(values.get("target"), "target", self.limits.max_target_chars),
            subject=read_optional_text(values.get("subject"), "subject", limit),
            rephrases=read_rephrases(values.get("rephrases"), limit),
            near_misses=read_texts(values.get("near_misses"), "near_misses", limit),
            locality_prompts=read_texts(values.get("locality_prompts"), "locality_prompts", limit),
            source=read_optional_text(values.get("source"), "source", limit),
            author=read_optional_text(values.get("author"), "author", limit),
            valid_from=read_moment(values.get("valid_from"), "valid_from"),
            valid_until=read_moment(values.get("valid_until"), "valid_until"),
            metadata=read_metadata(values.get("metadata")),
        )
        if edit.valid_from and edit.valid_until and edit.valid_until <= edit.valid_from:
            raise FieldError("valid_until", "is not after valid_from: set it later or leave it out")
        return edit if edit.id else replace(edit, id=_content_id(row.origin, edit))

    def _check_tokens(self, edit: Edit) -> None:
        if names := self._control_names(edit.target):
            raise FieldError(
                "target",
                f"holds {names[0]}, a control token or marker of the base, which no answer can "
                "say: write the target without it",
            )
        if self._tokenize is None:
            return
        self._token_ids("prompt", edit.prompt, self.limits.max_prompt_tokens)
        ids = self._token_ids("target", edit.target, self.limits.max_target_tokens)
        if self._unk_id is not None and self._unk_id in ids:
            raise FieldError("target", "has text that the tokenizer has no token for: rewrite it")

    def _token_ids(self, field: str, text: str, limit: int) -> Sequence[int]:
        assert self._tokenize is not None
        try:
            ids = self._tokenize(text)
        except ValueError as err:
            raise FieldError(field, f"cannot be tokenised ({err}): rewrite it") from err
        if len(ids) == 0:
            raise FieldError(field, "cannot be tokenised, it gives no token: rewrite it")
        if len(ids) > limit:
            raise FieldError(field, f"is {len(ids)} tokens long, the limit is {limit}: shorten it")
        return ids


def _read_prompt(value: Any, limit: int) -> str:
    prompt = read_text(value, "prompt", limit)
    if not prompt.strip(END_MARKS):
        raise FieldError("prompt", "is empty but for its end mark: ask or state something")
    return prompt


def _refuse_null_text(value: Any, field: str) -> None:
    if isinstance(value, str) and not isinstance(value, Quoted) and is_null_text(value):
        raise FieldError(
            field,
            f"is {value.strip()!r}, as programs write a missing value: leave the row out, or if "
            "the word is meant put it in quotes (CSV) or give --allow-null-text",
        )


def _content_id(origin: str, edit: Edit) -> str:
    return f"{origin}-{digest_json([edit.prompt, edit.target, edit.subject])[:12]}"


class SeenEdits:
    """The ids, prompts and facts of the edits accepted so far. Later duplicates and contradictions
    are rejected; with `may_contradict`, only repetitions of the last statement of a prompt."""

    def __init__(self, may_contradict: bool = False) -> None:
        self._may_contradict = may_contradict
        self._ids: dict[bytes, int] = {}
        self._prompts: dict[bytes, Statement] = {}
        self._facts: dict[bytes, Statement] = {}
        self._hidden: dict[int, str] = {}  # by row: names of its hidden characters

    def add(self, edit: Edit, row: int) -> None:
        """Remember an edit. Raises FieldError if it repeats or contradicts an earlier one.

        The same subject, relation and target with another prompt is not a conflict, since both
        prompts may be asked. Nor are edits with different `valid_from`.
        """
        target = _hash(normalise(edit.target) or edit.target)
        start = _start(edit)
        prompt = _hash(f"{start}\n{normalise(edit.prompt)}" if start else normalise(edit.prompt))
        fact = _fact(edit)
        name = _hash(edit.id)
        hidden = name_hidden("\n".join((edit.prompt, edit.target, edit.subject or "")))
        self._check_prompt(prompt, target, hidden)
        if fact is not None and not self._may_contradict:
            self._check_fact(fact, target, hidden)
        if name in self._ids:
            raise FieldError(
                "id", f"row {self._ids[name]} has the same id: give every edit its own"
            )
        if hidden:
            self._hidden[row] = hidden
        self._ids[name] = row
        self._prompts[prompt] = statement = (target, row)
        if fact is not None:
            self._facts.setdefault(fact, statement)

    def copy(self) -> "SeenEdits":
        """An independent copy."""
        other = SeenEdits(self._may_contradict)
        other._ids, other._prompts = dict(self._ids), dict(self._prompts)
        other._facts, other._hidden = dict(self._facts), dict(self._hidden)
        return other

    def _check_prompt(self, prompt: bytes, target: bytes, hidden: str) -> None:
        if prompt not in self._prompts:
            return
        known, row = self._prompts[prompt]
        if known == target:
            what = f"the same prompt and target{self._without(hidden, row)}"
            raise FieldError("prompt", f"row {row} has {what}: drop this row")
        if not self._may_contradict:
            raise FieldError("target", self._contradicts(row, "prompt", hidden))

    def _check_fact(self, fact: bytes, target: bytes, hidden: str) -> None:
        known, row = self._facts.get(fact, (target, 0))
        if known != target:
            raise FieldError("target", self._contradicts(row, "subject and relation", hidden))

    def _contradicts(self, row: int, what: str, hidden: str) -> str:
        return (
            f"contradicts row {row}: the same {what}{self._without(hidden, row)} with another "
            "target; keep one of the two, or let the later one take the other's place "
            "(--on-conflict supersede)"
        )

    def _without(self, hidden: str, row: int) -> str:
        """The hidden characters, of this row or of an earlier one, that were ignored."""
        names = hidden or self._hidden.get(row, "")
        return f" but for {names}" if names else ""


def _fact(edit: Edit) -> bytes | None:
    relation = edit.relation if edit.subject else None
    if edit.subject is None or relation is None:
        return None
    return _hash("\n".join([normalise(edit.subject), normalise(relation), _start(edit)]))


def _start(edit: Edit) -> str:
    return "" if edit.valid_from is None else edit.valid_from.isoformat()


def _hash(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=16).digest()


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
    """Text that must not be empty, stripped. Raises FieldError."""
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
    """A list of texts; empty if missing. Raises FieldError naming the entry."""
    items = _read_list(value, field)
    return tuple([read_text(item, f"{field}[{i}]", limit) for i, item in enumerate(items)])


def read_rephrases(value: Any, limit: int) -> tuple[Rephrase, ...]:
    """A list of texts, or of objects with `text` and optionally `source`. Raises FieldError."""
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
    """A time in UTC from ISO 8601 text, a datetime or a date; UTC if it has no zone. Raises
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
    """Texts by name; other values become JSON text, nulls are left out. Raises FieldError."""
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
        return str(value)
    if isinstance(value, date):
        return value.isoformat()
    try:
        return json.dumps(value, ensure_ascii=False, default=str, allow_nan=False)
    except RecursionError as err:
        raise FieldError(f"metadata.{name}", "is nested too deeply: flatten it") from err
    except ValueError as err:
        raise FieldError(f"metadata.{name}", f"{NO_NUMBER}: write a number or null") from err


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
