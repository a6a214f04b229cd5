"""Calibration of a base, as run by `scen calibrate`."""

import logging
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import torch

from scen.calibration.choose_expert import (
    ExpertGrid,
    ExpertTrial,
    bare_model,
    choose_expert,
    sample_edits,
)
from scen.calibration.figures import HeldFigures, measure_held
from scen.calibration.fit_encoder import RouterKeys
from scen.calibration.fit_router import LEAST_EDITS, RouterPlan, cross_encode, fit_router
from scen.calibration.places import (
    PlaceSearch,
    candidate_places,
    choose_places,
    count_trials,
    default_places,
    narrowing,
    read_questions,
)
from scen.calibration.router_set import (
    Asking,
    Question,
    RouterSet,
    build_router_set,
    join_router_sets,
    make_rephrases,
    names_subject,
    question_templates,
)
from scen.calibration.transfer import base_facts
from scen.data.asking import Topic, WordingSet, wordings
from scen.errors import InputError
from scen.model.base import Base
from scen.model.batch import pad_prompts
from scen.model.decode import decode
from scen.model.keys import KeyPlace, SpanKeys, join_spans
from scen.model.route import Route
from scen.model.user_text import vocabulary
from scen.records import Edit, Rephrase
from scen.routing.router import Router
from scen.snapshot.method import Profile
from scen.text import normalise

Progress = Callable[[str, int, int], None]  # step, units done in this call, units in total

_REQUEST = (
    "Question: Who wrote Hamlet?\nThe same question in other words: Hamlet was written by whom?\n"
    "Question: {}\nThe same question in other words:"
)
_TOKENS = 32
_BATCH = 32
_SAMPLE = 48  # edits on which expert settings are tried
_LEAST_PROMPTS = 20
_MOST_UNKNOWN = 0.1  # share of the tokens of the wordings

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Calibration:
    """A profile and the trials behind it; `places` is None if the default places were used."""

    profile: Profile
    places: PlaceSearch | None
    trials: tuple[ExpertTrial, ...]
    figures: HeldFigures


def calibrate(
    base: Base,
    sources: Sequence[Sequence[Edit]],
    unrelated: Sequence[str],
    about: Mapping[str, Any],
    plan: RouterPlan | None = None,
    progress: Progress = lambda _step, _done, _total: None,
) -> Calibration:
    """Places, router and expert settings for a base, from edits with rephrases and near misses.

    The edits of each source are of one kind, and near misses are made within it. Every other one of
    the `unrelated` prompts is held out for testing. `about` is the provenance of the data, recorded
    in the profile. Keys are read at the default places or, if the plan searches places, at the
    candidates with the highest recall. Raises InputError if there is too little data, ConfigError
    if there are too few hard negatives for the bound.
    """
    plan = plan or RouterPlan()
    whole = _complete(base, sources, unrelated, progress)
    places_of = candidate_places if plan.searches_places else default_places
    projection = narrowing(int(base.model.config.intermediate_size))
    asked = build_questions(base, whole, unrelated)
    keys, test = read_keys(base, places_of(base.num_layers), asked, progress, projection)
    search = None
    if plan.searches_places:
        search = _search_places(keys, plan, progress)
        chosen = list(search.chosen)
        keys, test = keys.at(chosen), replace(test, key_MKF=test.key_MKF[:, chosen])
    router, held = fit_router(keys, plan, lambda n: progress("router", n, plan.folds + 2))
    figures = measure_held(keys, router, held, test)
    if projection is not None:
        router = router.after(projection)
    best, trials = _search_expert(base, [e for edits in whole for e in edits], progress)
    facts = dict(about) | {"how": "full", "made": today(), "figures": figures.to_dict()}
    return Calibration(build_profile(base, best, router, facts), search, trials, figures)


def _complete(
    base: Base, sources: Sequence[Sequence[Edit]], unrelated: Sequence[str], progress: Progress
) -> list[list[Edit]]:
    """The edits of each source, all with rephrases. Raises InputError if there are too few."""
    _require_enough(sum(map(len, sources)), unrelated)
    bare = sum(not edit.rephrases for edits in sources for edit in edits)
    return [
        complete_edits(base, edits, lambda done: progress("rephrases", done, bare))
        for edits in sources
    ]


def build_profile(
    base: Base, expert: ExpertTrial, router: Router, facts: Mapping[str, Any]
) -> Profile:
    """The profile of a base with the settings of a trial."""
    settings = {name: getattr(expert, name) for name in ("layer", "lr", "rank", "steps")}
    shares = {name: round(getattr(expert, name), 4) for name in ("reliability", "generality")}
    return Profile(base_facts(base), settings, router, dict(facts) | {"expert": shares})


def _require_enough(edits: int, unrelated: Sequence[str]) -> None:
    if edits < LEAST_EDITS:
        raise InputError(
            f"--edits: {edits} usable edits; a router needs at least {LEAST_EDITS}, and "
            "several hundred to hold a bound of a few percent"
        )
    if len(unrelated) < _LEAST_PROMPTS:
        raise InputError(
            f"--locality: {len(unrelated)} prompts; at least {_LEAST_PROMPTS} are needed"
        )


@dataclass(frozen=True)
class Questions:
    """The questions on which a router is fitted, and the unrelated prompts that test it."""

    about: RouterSet
    test: tuple[Question, ...]

    def __len__(self) -> int:
        return len(self.about.questions) + len(self.test)


def build_questions(
    base: Base,
    sources: Sequence[Sequence[Edit]],
    unrelated: Sequence[str],
    ways: WordingSet = "fit",
) -> Questions:
    """Questions about the edits of each source, in many ways of asking if the base knows them;
    every other unrelated prompt is for the test."""
    has_roles, knows = base.template.has_roles, knows_wordings(base)
    parts, first = [], 0
    for edits in sources:
        asking = Asking(wordings(ways), first, has_roles) if knows else None
        parts.append(build_router_set(edits, (), asking=asking))
        first += len(edits)
    positives = _Texts([text for edits in sources for edit in edits for text in _all_texts(edit)])
    negatives = [text for text in unrelated if text not in positives]
    asking = Asking(wordings(ways), 0, has_roles) if knows else None
    around = build_router_set((), negatives[::2], asking=asking)
    test = [Question(text, "unrelated", -1, "given", False) for text in negatives[1::2]]
    return Questions(join_router_sets([*parts, around]), tuple(test))


def read_keys(
    base: Base,
    places: tuple[KeyPlace, ...],
    asked: Questions,
    progress: Progress,
    projection_FG: torch.Tensor | None = None,
    known: SpanKeys | None = None,
) -> tuple[RouterKeys, SpanKeys]:
    """Keys, at these places, of the questions about edits and of the unrelated test prompts,
    narrowed by the projection if there is one. `known` are the keys of the first questions, which
    are not read."""
    skip = 0 if known is None else len(known.row_M)
    questions = [*asked.about.questions, *asked.test][skip:]
    spans = read_questions(
        base, places, questions, projection_FG, lambda done: progress("keys", done, len(questions))
    )
    if known is not None:
        spans = join_spans([known, replace(spans, row_M=spans.row_M + skip)])
    count = len(asked.about.questions)
    is_fitted_M = spans.row_M < count
    fitted_spans = spans.take(is_fitted_M.nonzero().squeeze(1))
    whole_NKF = fitted_spans.key_MKF[fitted_spans.span_M == 0]
    rest = spans.take((~is_fitted_M).nonzero().squeeze(1))
    test_spans = replace(rest, row_M=rest.row_M - count)
    words = vocabulary(base.tokenizer)
    return RouterKeys(asked.about, places, whole_NKF, fitted_spans, words), test_spans


def knows_wordings(base: Base) -> bool:
    """False if the tokenizer does not cover the ways of asking, which are English: they would all
    look alike."""
    unknown = base.tokenizer.unk_token_id
    rng, about = random.Random(0), Topic("Who?")
    samples = [wordings("fit").ask(way, about, rng) for way in wordings("fit").ways]
    ids = [
        token
        for asked in samples
        if asked is not None
        for token in base.template.encode_prompt(asked.text).ids
    ]
    knows = unknown is None or ids.count(unknown) <= _MOST_UNKNOWN * len(ids)
    if not knows:
        _log.warning(
            "the tokenizer of %s does not cover the English ways of asking: the router is fitted "
            "on the edits' own wordings only",
            base.name,
        )
    return knows


class _Texts:
    """A set of texts, compared in normalised form."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._known = {normalise(text) for text in texts}

    def __contains__(self, text: str) -> bool:
        return normalise(text) in self._known


def _all_texts(edit: Edit) -> list[str]:
    return [edit.prompt, *(rephrase.text for rephrase in edit.rephrases)]


def _search_places(keys: RouterKeys, plan: RouterPlan, progress: Progress) -> PlaceSearch:
    total = plan.folds + count_trials(keys.places)
    folds = cross_encode(keys, plan, lambda done: progress("places", done, total))
    return choose_places(folds, keys, plan, lambda done: progress("places", done, total))


def _search_expert(
    base: Base, edits: Sequence[Edit], progress: Progress
) -> tuple[ExpertTrial, tuple[ExpertTrial, ...]]:
    grid = ExpertGrid.of(base.num_layers)
    sample = sample_edits(base, edits, _SAMPLE)
    return choose_expert(
        base, sample, grid, lambda done: progress("experts", done, grid.most_trials)
    )


def today() -> str:
    """The date in UTC, as in profiles."""
    return datetime.now(UTC).date().isoformat()


def complete_edits(
    base: Base, edits: Sequence[Edit], progress: Callable[[int], None] = lambda _: None
) -> list[Edit]:
    """The edits, each with rephrases: its own or, if it has none, generated by the base (source
    `base`) and from templates (`made`). `progress` is called with each batch's size."""
    templates = question_templates(edits)
    bare = [edit for edit in edits if not edit.rephrases]
    written: dict[str, tuple[Rephrase, ...]] = {}
    for begin in range(0, len(bare), _BATCH):
        batch = bare[begin : begin + _BATCH]
        for edit, text in zip(batch, _rephrase(base, batch), strict=True):
            own = [Rephrase(text, "base")] if is_other_wording(text, edit) else []
            written[edit.id] = (*own, *make_rephrases(edit, templates))
        progress(len(batch))
    return [replace(edit, rephrases=edit.rephrases or written[edit.id]) for edit in edits]


def _rephrase(base: Base, edits: Sequence[Edit]) -> list[str]:
    """The base's rephrase of each prompt: the first line of its answer."""
    encoded = [base.template.encode_prompt(_REQUEST.format(edit.prompt)) for edit in edits]
    batch = pad_prompts(encoded, base.pad_id, base.device)
    answers = decode(bare_model(base), batch, _TOKENS, Route.base(len(edits), base.device))
    texts = [base.template.decode(tokens) for tokens in answers.tokens]
    return [(text.strip().splitlines() or [""])[0].strip(" \"'") for text in texts]


def is_other_wording(text: str, edit: Edit) -> bool:
    """True if the text rephrases the edit's prompt, rather than repeating or answering it or losing
    its subject."""
    if normalise(text) == normalise(edit.prompt) or len(text) > 2 * len(edit.prompt) + 20:
        return False
    return names_subject(text, edit)
