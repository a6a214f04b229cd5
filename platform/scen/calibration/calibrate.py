"""Calibration of a base: what `scen calibrate` runs, step by step."""

import logging
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
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
    build_router_set,
    join_router_sets,
    make_rephrases,
    names_subject,
    question_templates,
)
from scen.data.asking import Ask, wordings
from scen.errors import ConfigError, InputError
from scen.model.base import Base
from scen.model.batch import pad_prompts
from scen.model.decode import decode
from scen.model.keys import KeyPlace, SpanKeys
from scen.model.route import Route
from scen.records import Edit, Rephrase, normalise
from scen.routing.router import Router
from scen.snapshot.load import Place
from scen.snapshot.method import Profile
from scen.snapshot.open import OpenStore

Progress = Callable[[str, int, int], None]  # step, done in this call, of how many

_REQUEST = (
    "Question: Who wrote Hamlet?\nThe same question in other words: Hamlet was written by whom?\n"
    "Question: {}\nThe same question in other words:"
)
_TOKENS = 32
_BATCH = 32
_SAMPLE = 48  # edits that experts are tried on
_LEAST_PROMPTS = 20
_MOST_UNKNOWN = 0.1  # of the tokens of wordings

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Calibration:
    """A profile and the trials behind it; `places` is None where the default places were used."""

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
    the `unrelated` prompts is kept for the test. `about` says where the data
    came from; it is kept in the profile. Keys are read at the default places, or where the plan
    says so at the candidates of highest recall. Raises InputError where there is too little data,
    ConfigError where there are too few hard negatives for the bound.
    """
    plan = plan or RouterPlan()
    whole = _complete(base, sources, unrelated, progress)
    find = candidate_places if plan.searches_places else default_places
    keys, test, projection = _read(base, find(base.num_layers), (whole, unrelated), progress)
    search = None
    if plan.searches_places:
        search = _search_places(keys, plan, progress)
        chosen = list(search.chosen)
        keys, test = keys.at(chosen), replace(test, key_MKF=test.key_MKF[:, chosen])
    router, figures = _fit(keys, test, projection, plan, progress)
    best, trials = _search_expert(base, [e for edits in whole for e in edits], progress)
    expert = {name: getattr(best, name) for name in ("layer", "lr", "rank", "steps")}
    tried = {"reliability": round(best.reliability, 4), "generality": round(best.generality, 4)}
    facts = dict(about) | {"figures": figures.to_dict(), "expert": tried}
    return Calibration(Profile(_facts(base), expert, router, facts), search, trials, figures)


def calibrate_store(
    store: OpenStore,
    unrelated: Sequence[str],
    about: Mapping[str, Any],
    plan: RouterPlan | None = None,
    progress: Progress = lambda _step, _done, _total: None,
) -> Calibration:
    """A router for a store's base, fitted on the active edits of the store itself.

    The edits are represented by the raw keys that their bundles hold, at the places of the store,
    so that the router fits a store of these edits without reading them again; only their rephrases,
    near misses and other wordings are read from the base. Settings of experts stay those of the
    store. Other arguments as in `calibrate`. Raises ConfigError for a store of method scen, which
    has no router, or where there are too few hard negatives for the bound; InputError where there
    is too little data.
    """
    base, method = store.base, store.method
    if not method.kind.has_router:
        raise ConfigError(
            f"--store: method {method.method} has no router to calibrate; a store of method "
            "scen-lr has one"
        )
    plan = plan or RouterPlan()
    entries = store.ledger.snapshot().entries
    whole = _complete(base, [[entry.edit for entry in entries]], unrelated, progress)
    keys, test, projection = _read(base, method.places, (whole, unrelated), progress)
    rows = [Place(entry.bundle, entry.row) for entry in entries]
    stored_EKF = store.loader.tensors(rows, ("key",))["key"].cpu()
    if projection is not None:
        stored_EKF = stored_EKF @ projection
    router, figures = _fit(keys.with_edit_keys(stored_EKF), test, projection, plan, progress)
    training = {name: method.training[name] for name in ("lr", "steps")}
    expert = {"layer": method.layer, "rank": method.rank} | training
    facts = dict(about) | {"figures": figures.to_dict()}
    return Calibration(Profile(_facts(base), expert, router, facts), None, (), figures)


def _complete(
    base: Base, sources: Sequence[Sequence[Edit]], unrelated: Sequence[str], progress: Progress
) -> list[list[Edit]]:
    """The edits of each source, all with rephrases. Raises InputError where there are too few."""
    _require_enough(sum(map(len, sources)), unrelated)
    bare = sum(not edit.rephrases for edits in sources for edit in edits)
    return [
        complete_edits(base, edits, lambda done: progress("rephrases", done, bare))
        for edits in sources
    ]


def _fit(
    keys: RouterKeys,
    test: SpanKeys,
    projection_FG: torch.Tensor | None,
    plan: RouterPlan,
    progress: Progress,
) -> tuple[Router, HeldFigures]:
    """The router of raw keys as the base gives them, and its figures on held-out questions."""
    router, held = fit_router(keys, plan, lambda n: progress("router", n, plan.folds + 2))
    figures = measure_held(keys, router, held, test)
    return router if projection_FG is None else router.after(projection_FG), figures


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


def _read(
    base: Base,
    places: tuple[KeyPlace, ...],
    data: tuple[Sequence[Sequence[Edit]], Sequence[str]],
    progress: Progress,
) -> tuple[RouterKeys, SpanKeys, torch.Tensor | None]:
    """Keys of the questions about edits and of the unrelated prompts kept for the test, at these
    places; and the projection that narrowed them."""
    sources, unrelated = data
    has_roles, knows = base.template.has_roles, _knows_wordings(base)
    parts, first = [], 0
    for edits in sources:
        asking = Asking(wordings("fit"), first, has_roles) if knows else None
        parts.append(build_router_set(edits, (), asking=asking))
        first += len(edits)
    asked = _Texts([text for edits in sources for edit in edits for text in _all_texts(edit)])
    negatives = [text for text in unrelated if text not in asked]
    asking = Asking(wordings("fit"), 0, has_roles) if knows else None
    around = build_router_set((), negatives[::2], asking=asking)
    about = join_router_sets([*parts, around])
    test = [Question(text, "unrelated", -1, "given", False) for text in negatives[1::2]]
    projection = narrowing(int(base.model.config.intermediate_size))
    questions = [*about.questions, *test]
    spans = read_questions(
        base, places, questions, projection, lambda done: progress("keys", done, len(questions))
    )
    count = len(about.questions)
    is_ours_M = spans.row_M < count
    ours = spans.take(is_ours_M.nonzero().squeeze(1))
    whole_NKF = ours.key_MKF[ours.span_M == 0]
    rest = spans.take((~is_ours_M).nonzero().squeeze(1))
    theirs = replace(rest, row_M=rest.row_M - count)
    return RouterKeys(about, places, whole_NKF, ours), theirs, projection


def _knows_wordings(base: Base) -> bool:
    """False where the tokenizer lacks the words of the ways of asking, which are English: all of
    them would look alike."""
    unknown = base.tokenizer.unk_token_id
    rng, about = random.Random(0), Ask("Who?")
    some = [wordings("fit").ask(way, about, rng) for way in wordings("fit").ways]
    ids = [
        token
        for asked in some
        if asked is not None
        for token in base.template.encode_prompt(asked.text).ids
    ]
    knows = unknown is None or ids.count(unknown) <= _MOST_UNKNOWN * len(ids)
    if not knows:
        _log.warning(
            "the tokenizer of %s does not know the words of the ways of asking: the router is "
            "fitted on the edits' own wordings only",
            base.name,
        )
    return knows


class _Texts:
    """Texts, compared as prompts are."""

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
    some = sample_edits(base, edits, _SAMPLE)
    return choose_expert(base, some, grid, lambda done: progress("experts", done, grid.most_trials))


def _facts(base: Base) -> dict[str, object]:
    """The base as a profile names it."""
    return {name: fact for name, fact in base.describe().items() if name != "device"}


def complete_edits(
    base: Base, edits: Sequence[Edit], progress: Callable[[int], None] = lambda _: None
) -> list[Edit]:
    """The edits, each with rephrases: its own, or where it has none those of the base (source
    `base`) and of templates (`made`). `progress` is called with each batch's size."""
    templates = question_templates(edits)
    bare = [edit for edit in edits if not edit.rephrases]
    written: dict[str, tuple[Rephrase, ...]] = {}
    for begin in range(0, len(bare), _BATCH):
        some = bare[begin : begin + _BATCH]
        for edit, text in zip(some, _ask(base, some), strict=True):
            own = [Rephrase(text, "base")] if is_other_wording(text, edit) else []
            written[edit.id] = (*own, *make_rephrases(edit, templates))
        progress(len(some))
    return [replace(edit, rephrases=edit.rephrases or written[edit.id]) for edit in edits]


def _ask(base: Base, edits: Sequence[Edit]) -> list[str]:
    """What the base makes of each prompt, its first line."""
    encoded = [base.template.encode_prompt(_REQUEST.format(edit.prompt)) for edit in edits]
    batch = pad_prompts(encoded, base.pad_id, base.device)
    answers = decode(bare_model(base), batch, _TOKENS, Route.base(len(edits), base.device))
    texts = [base.template.decode(tokens) for tokens in answers.tokens]
    return [(text.strip().splitlines() or [""])[0].strip(" \"'") for text in texts]


def is_other_wording(text: str, edit: Edit) -> bool:
    """A base may repeat the prompt, answer it, or lose its subject."""
    if normalise(text) == normalise(edit.prompt) or len(text) > 2 * len(edit.prompt) + 20:
        return False
    return names_subject(text, edit)
