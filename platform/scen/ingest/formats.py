"""Published data sets of edits in the fields of the edit schema.

With `auto` each record is recognised by its own keys, in the order of SIGNATURES, so that no
record's fate hangs on its neighbour; a record that fits none is taken as `scen`.

scen           our own fields. A field we do not know goes into the metadata as text.
zsre           MEND (src, alt, rephrase, loc), EasyEdit (prompt, target_new, rephrase_prompt), or
               a prepared set (prompt, target, rephrases beside rephrase_src).
knowedit       prompt, target_new, locality, portability; its WikiBio part has text and labels.
counterfact    ROME (requested_rewrite, ...) or flat (prompt, target_new, paraphrase_prompts).
hallucination  text, labels, concept.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from scen.errors import InputError
from scen.ingest.published import (
    from_counterfact,
    from_hallucination,
    from_knowedit,
    from_zsre,
)
from scen.ingest.rows import FieldError, RawRow
from scen.ingest.schema import EDIT_SCHEMA

Values = dict[str, Any]

SIGNATURES = [
    (name, set(keys.split()))
    for name, keys in [
        ("zsre", "prompt target rephrase_src"),
        ("zsre", "prompt target locality_prompt"),
        ("zsre", "prompt target subject_locality"),
        ("scen", "prompt target"),
        ("counterfact", "requested_rewrite"),
        ("counterfact", "prompt target_new paraphrase_prompts"),
        ("counterfact", "prompt target_new neighborhood_prompts"),
        ("zsre", "src alt"),
        ("hallucination", "text labels"),
        ("knowedit", "prompt target_new portability"),
        ("zsre", "prompt target_new rephrase_prompt"),
        ("knowedit", "prompt target_new locality"),
        ("zsre", "prompt target_new"),
        # below: reached only where the format is given
        ("zsre", "prompt target"),
        ("knowedit", "text labels"),
        ("counterfact", "prompt target_new"),
    ]
]


def detect_format(keys: Iterable[str]) -> str | None:
    """The format with these keys, or None."""
    present = set(keys)
    return next((name for name, needed in SIGNATURES if needed <= present), None)


def check_columns(columns: list[str], data_format: str, uri: str) -> None:
    """Raise InputError when a table with these columns cannot be in the format."""
    wanted = [s for s in SIGNATURES if data_format in ("auto", s[0])]
    if not any(needed <= set(columns) for _, needed in wanted):
        raise InputError(
            f"{uri}: has the columns {columns}, which no known format has: "
            "name the question column `prompt` and the answer column `target`"
        )


def adapt(row: RawRow, data_format: str) -> RawRow:
    """The row with its `fields` filled in, or with a fault."""
    if row.fault is not None:
        return row
    name = (detect_format(row.values) or "scen") if data_format == "auto" else data_format
    try:
        fields = ADAPTERS[name](row.values)
    except FieldError as err:
        return replace(row, fault=err)
    return replace(row, fields={k: v for k, v in fields.items() if v is not None}, origin=name)


def _scen(values: Values) -> Values:
    fields = {name: values.get(name) for name in EDIT_SCHEMA.names}
    extra = {k: v for k, v in values.items() if k not in fields and v is not None}
    given = fields["metadata"]
    if extra and (given is None or isinstance(given, dict)):
        for name in extra.keys() & (given or {}).keys():
            raise FieldError(name, "is a field and also in the metadata: keep one of them")
        fields["metadata"] = {**(given or {}), **extra}
    return fields


ADAPTERS: dict[str, Callable[[Values], Values]] = {
    "scen": _scen,
    "zsre": from_zsre,
    "knowedit": from_knowedit,
    "counterfact": from_counterfact,
    "hallucination": from_hallucination,
}
