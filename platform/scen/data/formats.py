"""Conversion of records, in our own format or those of published data sets, to the edit schema.

With `auto` the format of each record is detected from its own keys, in the order of SIGNATURES,
independently of other records; a record that matches none is read as `scen`.

scen           the edit schema. Unknown fields go into the metadata as text.
zsre           MEND (src, alt, rephrase, loc), EasyEdit (prompt, target_new, rephrase_prompt), or
               a prepared set (prompt, target, rephrases with rephrase_src).
knowedit       prompt, target_new, locality, portability; its WikiBio part has text and labels.
counterfact    ROME (requested_rewrite, ...) or flat (prompt, target_new, paraphrase_prompts).
hallucination  text, labels, concept.

Same-subject and neighbourhood probes become `near_misses`, unrelated ones `locality_prompts`. The
first true answer is kept as metadata `target_true`. Portability and generation prompts are left
out: they ask for something other than the target.
"""

import functools
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from scen.data.rows import EDIT_SCHEMA, FieldError, RawRow
from scen.errors import InputError
from scen.text import normalise

Values = dict[str, Any]

PLAIN = ["id", "subject", "source", "author", "valid_from", "valid_until"]
KEPT = ["relation", "relation_id", "case_id", "fact_group", "primary", "locality_src"]
MEND_PREFIX = "nq question: "
NEAR_PROBES = {"Relation_Specificity", "Forgetfulness", "neighborhood", "distracting"}

PANDAS_INDEX = re.compile(r"__index_level_\d+__|Unnamed: \d+")
LONGEST_NAME = 64  # of a column

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
        # below: reached only if the format is given
        ("zsre", "prompt target"),
        ("knowedit", "text labels"),
        ("counterfact", "prompt target_new"),
    ]
]


NAMES = frozenset(EDIT_SCHEMA.names).union({"case_id"}, *(keys for _, keys in SIGNATURES))
"""Column names that have a meaning in one of the formats."""


def detect_format(keys: Iterable[str]) -> str | None:
    """The format with these keys, or None."""
    present = set(keys)
    return next((name for name, needed in SIGNATURES if needed <= present), None)


def check_columns(columns: list[str], data_format: str, uri: str) -> None:
    """Raises InputError if a table with these columns cannot be in the format."""
    signatures = [s for s in SIGNATURES if data_format in ("auto", s[0])]
    if not any(needed <= set(columns) for _, needed in signatures):
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
    if _repeats_header(row.values, fields):
        reason = "repeats the names of the columns, as when files were joined: leave it out"
        return replace(row, fault=FieldError("row", reason))
    return replace(row, fields={k: v for k, v in fields.items() if v is not None}, origin=name)


def _repeats_header(values: Values, fields: Values) -> bool:
    """True if prompt and target are names of columns."""
    prompt, target = fields.get("prompt"), fields.get("target")
    if not isinstance(prompt, str) or not isinstance(target, str):
        return False
    if max(len(prompt), len(target)) > LONGEST_NAME or prompt == target:
        return False
    names = _names(tuple(values))
    return _as_name(prompt) in names and _as_name(target) in names


@functools.lru_cache(64)
def _names(columns: tuple[str, ...]) -> frozenset[str]:
    return frozenset(map(_as_name, columns))


def _as_name(text: str) -> str:
    return normalise(text.strip("\"'` \t\r\n\ufeff"))


def _scen(values: Values) -> Values:
    fields = {name: values.get(name) for name in EDIT_SCHEMA.names}
    extra = {
        name: value
        for name, value in values.items()
        if name not in fields and value is not None and not PANDAS_INDEX.fullmatch(name)
    }
    given = fields["metadata"]
    if extra and (given is None or isinstance(given, dict)):
        for name in extra.keys() & (given or {}).keys():
            raise FieldError(name, "is a field and also in the metadata: keep one of them")
        fields["metadata"] = {**(given or {}), **extra}
    return fields


def from_zsre(values: Values) -> Values:
    """Records of MEND, EasyEdit or a prepared set. Raises FieldError."""
    if "src" in values or "alt" in values:
        return _mend(values)
    return _easyedit(values, "zsre") if "target_new" in values else _prepared(values)


def _mend(values: Values) -> Values:
    unrelated = [
        text.removeprefix(MEND_PREFIX) if isinstance(text, str) else text
        for text in _as_list(values.get("loc"))
    ]
    return _shared(values, "zsre", values.get("answers")) | {
        "prompt": values.get("src"),
        "target": values.get("alt"),
        "rephrases": _rephrases(values.get("rephrase"), "orig"),
        "locality_prompts": unrelated,
    }


def _prepared(values: Values) -> Values:
    return _shared(values, "zsre", values.get("target_true")) | {
        "prompt": values.get("prompt"),
        "target": values.get("target"),
        "rephrases": _rephrases(values.get("rephrases"), "given", values.get("rephrase_src")),
        "near_misses": _probe_prompts(values.get("subject_locality"), "subject_locality"),
        "locality_prompts": _as_list(values.get("locality_prompt")),
    }


def _easyedit(values: Values, name: str) -> Values:
    near, unrelated = _probes(values.get("locality"))
    rephrases = _as_list(values.get("rephrase_prompt")) + _as_list(values.get("rephrase"))
    return _shared(values, name, values.get("ground_truth")) | {
        "prompt": values.get("prompt"),
        "target": values.get("target_new"),
        "rephrases": _rephrases(rephrases, "knowedit" if name == "knowedit" else "orig"),
        "near_misses": near,
        "locality_prompts": unrelated + _as_list(values.get("locality_prompt")),
    }


def from_knowedit(values: Values) -> Values:
    """Records of KnowEdit, including its WikiBio part. Raises FieldError."""
    if "labels" in values:
        return from_hallucination(values)
    return _easyedit(values, "knowedit")


def from_counterfact(values: Values) -> Values:
    """Records of ROME, or flat ones. Raises FieldError."""
    rewrite = values.get("requested_rewrite", values)
    if not isinstance(rewrite, dict):
        raise FieldError("requested_rewrite", "must be an object with prompt and target_new")
    prompt, subject, target = (rewrite.get(k) for k in ("prompt", "subject", "target_new"))
    if isinstance(prompt, str) and isinstance(subject, str):
        prompt = prompt.replace("{}", subject)
    fields = _shared(values, "counterfact", rewrite.get("target_true")) | {
        "prompt": prompt,
        "target": target.get("str") if isinstance(target, dict) else target,
        "subject": subject,
        "rephrases": _rephrases(
            values.get("paraphrase_prompts"), "orig", values.get("paraphrase_src")
        ),
        "near_misses": _as_list(values.get("neighborhood_prompts")),
    }
    if isinstance(relation := rewrite.get("relation_id"), str):
        fields["metadata"].setdefault("relation", relation)
    return fields


def from_hallucination(values: Values) -> Values:
    """Sentences to be produced after a passage. Raises FieldError."""
    near, unrelated = _probes(values.get("locality"))
    return _shared(values, "hallucination", None) | {
        "prompt": values.get("text"),
        "target": values.get("labels"),
        "subject": values.get("concept"),
        "near_misses": near,
        "locality_prompts": unrelated,
    }


def _shared(values: Values, name: str, truth: Any) -> Values:
    """The common part of the published formats: the plain fields, the id, the metadata."""
    fields = {n: values.get(n) for n in PLAIN}
    case = values.get("case_id")
    if fields["id"] is None and isinstance(case, str | int):
        fields["id"] = f"{name}-{case}"
    metadata = {n: values[n] for n in KEPT if isinstance(values.get(n), str | int | float)}
    while isinstance(truth, list) and truth:
        truth = truth[0]
    truth = truth.get("str") if isinstance(truth, dict) else truth
    if isinstance(truth, str):
        metadata["target_true"] = truth
    if flags := values.get("flags"):
        metadata["flags"] = flags
    return fields | {"metadata": metadata}


def _rephrases(texts: Any, source: str, sources: Any = None) -> list[Values]:
    texts = _as_list(texts)
    named = _as_list(sources) or [source] * len(texts)
    if len(named) != len(texts):
        raise FieldError("rephrases", f"are {len(texts)}, with {len(named)} sources: give each one")
    return [{"text": t, "source": s} for t, s in zip(texts, named, strict=True)]


def _probes(locality: Any) -> tuple[list[Any], list[Any]]:
    """EasyEdit's locality probes: the near misses, and the unrelated prompts."""
    if not isinstance(locality, dict | None):
        raise FieldError("locality", "must be an object of probe lists")
    near: list[Any] = []
    unrelated: list[Any] = []
    for name, probes in (locality or {}).items():
        (near if name in NEAR_PROBES else unrelated).extend(_probe_prompts(probes, "locality"))
    return near, unrelated


def _probe_prompts(probes: Any, field: str) -> list[Any]:
    prompts: list[Any] = []
    for probe in _as_list(probes):
        if not isinstance(probe, dict):
            raise FieldError(field, "must hold objects with a prompt")
        prompts += _as_list(probe.get("prompt"))
    return prompts


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


ADAPTERS: dict[str, Callable[[Values], Values]] = {
    "scen": _scen,
    "zsre": from_zsre,
    "knowedit": from_knowedit,
    "counterfact": from_counterfact,
    "hallucination": from_hallucination,
}
