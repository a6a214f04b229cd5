"""Records of published data sets in the fields of the edit schema.

Same-subject and neighbourhood probes become `near_misses`, unrelated ones `locality_prompts`. The
first true answer is kept as metadata `target_true`. Portability and generation prompts are left
out: they ask for something else than the target.
"""

from typing import Any

from scen.ingest.rows import FieldError

Values = dict[str, Any]

PLAIN = ["id", "subject", "source", "author", "valid_from", "valid_until"]
KEPT = ["relation", "relation_id", "case_id", "fact_group", "primary", "locality_src"]
MEND_PREFIX = "nq question: "
NEAR_PROBES = {"Relation_Specificity", "Forgetfulness", "neighborhood", "distracting"}


def from_zsre(values: Values) -> Values:
    """MEND's records, EasyEdit's, or a prepared set's. Raises FieldError."""
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
    """KnowEdit's records, those of its WikiBio part too. Raises FieldError."""
    if "labels" in values:
        return from_hallucination(values)
    return _easyedit(values, "knowedit")


def from_counterfact(values: Values) -> Values:
    """ROME's records, or flat ones. Raises FieldError."""
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
    """Sentences to be forced after a passage. Raises FieldError."""
    near, unrelated = _probes(values.get("locality"))
    return _shared(values, "hallucination", None) | {
        "prompt": values.get("text"),
        "target": values.get("labels"),
        "subject": values.get("concept"),
        "near_misses": near,
        "locality_prompts": unrelated,
    }


def _shared(values: Values, name: str, truth: Any) -> Values:
    """What the published formats have in common: the plain fields, the id, the metadata."""
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
