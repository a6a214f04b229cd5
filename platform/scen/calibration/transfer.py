"""Take over the profile of the same base in another quantisation or precision, after a check.

Quantisation moves the keys of prompts a little and the structure of a base not at all, so a router
fitted on one set of weights suits another. Whether it does is measured on samples.
"""

import itertools
import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from scen.calibration.router_set import make_near_misses, question_templates
from scen.data import Validator, ingest
from scen.data.read import read_prompts
from scen.model.base import Base
from scen.records import Edit, digest_json
from scen.routing.keys import read_prompt_spans
from scen.routing.neurons import KeyNeurons, best_spans
from scen.samples import sample_path
from scen.snapshot.method import Profile

Progress = Callable[[str, int, int], None]  # step, units done in this call, units in total

_HELD = 400  # first rows of the ZsRE sample, on which no packaged or quick profile is fitted
_EDITS = 48
_DEVIATIONS = 2.0  # standard deviations of chance that a figure may be worse than the profile's
_SHAPES = ("template", "layers", "hidden_size", "intermediate_size")
_ADDED = ("architecture", "encoding")  # not recorded in profiles of older releases

# Kinds of questions that must reach no edit, and their names in a profile's figures.
_NEGATIVES = {
    "near": "near misses, made",
    "absent": "same kind, edit absent",
    "unrelated": "unrelated",
}


@dataclass(frozen=True)
class TransferCheck:
    """Routing of sampled questions by a profile's router on another base: the share of published
    rephrases that reach their edit, and of made near misses, of questions whose edit is absent and
    of unrelated ones that reach any. `samples` is the number of questions."""

    samples: int
    rephrases: float
    near: float
    absent: float
    unrelated: float


def adopt_profile(
    base: Base,
    candidates: Iterable[Profile],
    progress: Progress = lambda _step, _done, _total: None,
) -> Profile | None:
    """The first of the profiles, made for other weights of the same base, whose figures hold on
    this one; None if there is none. The profile records whose it was and the figures of the check
    (`taken_from`)."""
    facts = base_facts(base)
    for profile in candidates:
        if not differs_by_weights(facts, profile):
            continue
        check = check_transfer(base, profile, progress)
        if not holds(check, profile):
            continue
        taken = {"fingerprint": profile.base["fingerprint"], "name": profile.base["name"]}
        about = dict(profile.calibration) | {"taken_from": taken | {"check": _rounded(check)}}
        return replace(profile, base=facts, calibration=about)
    return None


def how_adopted(profile: Profile) -> str:
    """Whose profile it was, and on how many samples it was checked."""
    taken = profile.calibration["taken_from"]
    return (
        f"that of {taken['name']} ({str(taken['fingerprint'])[:12]}) is taken over, checked on "
        f"{taken['check']['samples']} samples"
    )


def base_facts(base: Base) -> dict[str, Any]:
    """The description of a base in a profile. `encoding` is a digest of how samples are formatted
    and tokenised."""
    facts = {name: fact for name, fact in base.describe().items() if name != "device"}
    samples = read_prompts(sample_path("nq_neutral.jsonl"), 32)
    encoding = [base.template.encode_prompt(text).ids for text in samples]
    return facts | {
        "architecture": base.config.model_type,
        "encoding": digest_json([list(ids) for ids in encoding])[:16],
    }


def differs_by_weights(facts: Mapping[str, Any], profile: Profile) -> bool:
    """True if a profile was made for a base that has the same architecture, shapes, template and
    tokens as the one of these `base_facts`, but other weights."""
    theirs = profile.base
    names = [*_SHAPES, *(name for name in _ADDED if name in theirs)]
    return theirs["fingerprint"] != facts["fingerprint"] and all(
        theirs.get(name) == facts[name] for name in names
    )


def check_transfer(
    base: Base, profile: Profile, progress: Progress = lambda _step, _done, _total: None
) -> TransferCheck:
    """Route sampled questions, of which the packaged profiles saw none, with a profile's router."""
    held = _read_held()
    edits, others = _spread(held, _EDITS), _spread(held[1:], _EDITS)
    known = {edit.id for edit in edits}
    templates, draw = question_templates(held), random.Random(0)
    questions = {
        "rephrases": [next(r.text for r in e.rephrases if r.source == "orig") for e in edits],
        "near": [text for e in edits for text in make_near_misses(e, templates, draw, 1)],
        "absent": [edit.prompt for edit in others if edit.id not in known],
        "unrelated": read_prompts(sample_path("nq_locality.jsonl"), _EDITS),
    }
    texts = list(itertools.chain.from_iterable(questions.values()))
    reached = _reached(base, profile, edits, texts, progress)
    shares, begin = {}, 0
    for name, asked in questions.items():
        part = reached[begin : begin + len(asked)]
        is_hit = [e == i if name == "rephrases" else e is not None for i, e in enumerate(part)]
        shares[name] = sum(is_hit) / len(asked)
        begin += len(asked)
    return TransferCheck(len(texts), **shares)


def holds(check: TransferCheck, profile: Profile) -> bool:
    """True if no figure of a check is worse than the profile's own by more than chance explains. A
    profile without such figures is judged by its bound."""
    figures, bound = profile.calibration.get("figures", {}), profile.router.bound
    count = check.samples // 4  # four kinds of about equal size
    expected = _recorded(figures, "rephrases, orig", "right") or _recorded(
        figures, "rephrases", "right"
    )
    if expected is not None and check.rephrases < expected - _slack(expected, count):
        return False
    for name, kind in _NEGATIVES.items():
        share = _recorded(figures, kind, "wrong")
        share = bound if share is None else share
        if share is not None and getattr(check, name) > share + _slack(share, count):
            return False
    return True


def _rounded(check: TransferCheck) -> dict[str, float]:
    return {name: round(value, 4) for name, value in asdict(check).items()}


def _slack(share: float, count: int) -> float:
    """How far a share of `count` samples may be from the expected one."""
    return _DEVIATIONS * math.sqrt(max(share * (1 - share), 1 / count) / count)


def _recorded(figures: Mapping[str, Any], kind: str, share: str) -> float | None:
    """The mean of a share over the kinds of a profile's figures that begin with this name."""
    kinds = [k for k in figures.get("kinds", ()) if k["kind"].startswith(kind) and k["count"]]
    total = sum(k["count"] for k in kinds)
    return sum(k[share] * k["count"] for k in kinds) / total if total else None


def _reached(
    base: Base, profile: Profile, edits: Sequence[Edit], texts: Sequence[str], progress: Progress
) -> list[int | None]:
    """The edit (index) that each text reaches; None where that is none."""
    prompts = [*(edit.prompt for edit in edits), *texts]
    encoded = [base.template.encode_prompt(text) for text in prompts]
    router = profile.router
    keys = read_prompt_spans(
        base, router.encoder.places, encoded, lambda done: progress("check", done, len(prompts))
    )
    keys = replace(keys, key_MKF=keys.key_MKF.float())
    is_edit_M = keys.row_M < len(edits)
    own = keys.take((is_edit_M & (keys.span_M == 0)).nonzero().squeeze(1))
    asked = keys.take((~is_edit_M).nonzero().squeeze(1))
    asked = replace(asked, row_M=asked.row_M - len(edits))
    neurons = KeyNeurons.build(router, own.key_MKF, own.texts)
    best = best_spans(neurons.choose_spans(asked), asked.row_M, len(texts))
    pairs = zip(best.index_B2[:, 0].tolist(), best.score_B2[:, 0].tolist(), strict=True)
    return [index if score > router.threshold else None for index, score in pairs]


def _read_held() -> list[Edit]:
    """Edits with a subject and a published rephrase."""
    batches = ingest(str(sample_path("zsre_edits.jsonl")), Validator())
    held = itertools.islice(itertools.chain.from_iterable(b.edits for b in batches), _HELD)
    return [e for e in held if e.subject and any(r.source == "orig" for r in e.rephrases)]


def _spread(edits: Sequence[Edit], count: int) -> list[Edit]:
    return list(edits[:: max(1, len(edits) // count)][:count])
