"""Row by row: a row of a file becomes an `Edit`, or a `Rejection` that says why not."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from scen.ingest.fields import (
    read_id,
    read_metadata,
    read_moment,
    read_optional_text,
    read_rephrases,
    read_text,
    read_texts,
)
from scen.ingest.rows import FieldError, RawRow, Rejection, reject
from scen.ingest.seen import SeenEdits
from scen.records import Edit, digest_json

END_MARKS = "?.! "
Tokenize = Callable[[str], Sequence[int]]


@dataclass(frozen=True, slots=True)
class Limits:
    """How long texts may be. Every text but the target has the limit of a prompt."""

    max_prompt_chars: int = 8000
    max_target_chars: int = 2000
    max_prompt_tokens: int = 2048
    max_target_tokens: int = 256


class Validator:
    """Checks the rows of one wave, across all its files. `tokenize` turns text into the ids of
    the base's tokens, without special tokens; `unk_id` is its id for text it has no token for.
    With `may_contradict` a row may say otherwise than an earlier one: somebody else decides.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        tokenize: Tokenize | None = None,
        unk_id: int | None = None,
        *,
        may_contradict: bool = False,
    ) -> None:
        self.limits = limits or Limits()
        self._tokenize = tokenize
        self._unk_id = unk_id
        self._seen = SeenEdits(may_contradict)

    def check(self, row: RawRow) -> Edit | Rejection:
        """The edit in the row, or why it is not taken."""
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
        """A validator that has seen the same rows; what it sees from here on stays with it."""
        other = Validator(self.limits, self._tokenize, self._unk_id)
        other._seen = self._seen.copy()
        return other

    def _read(self, row: RawRow) -> Edit:
        values, limit = row.fields, self.limits.max_prompt_chars
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


def _content_id(origin: str, edit: Edit) -> str:
    return f"{origin}-{digest_json([edit.prompt, edit.target, edit.subject])[:12]}"
