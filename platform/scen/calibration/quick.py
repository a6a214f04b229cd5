"""Quick calibration, for the first use of a base: minutes on one core instead of an hour; and the
calibration of a store on its own edits.

Keys are read at the default places, expert settings are the defaults, checked on
a few edits, and the router is fitted as in `calibrate`, on a part of the packaged samples. The cost
is bounded: at most `PASSES` prompts' worth of forward passes per edit.
"""

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from scen.calibration.calibrate import (
    Calibration,
    Progress,
    Questions,
    build_profile,
    build_questions,
    knows_wordings,
    read_keys,
    today,
)
from scen.calibration.choose_expert import ExpertTrial, sample_edits, try_expert
from scen.calibration.figures import HeldFigures, measure_held, score_router
from scen.calibration.fit_encoder import EncoderPlan, RouterKeys
from scen.calibration.fit_router import LEAST_EDITS, HeldOut, RouterPlan, fit_router
from scen.calibration.places import default_places, narrowing, read_questions
from scen.calibration.router_set import make_rephrases, question_templates, thin_router_set
from scen.config import ExpertConfig
from scen.data import Validator, ingest
from scen.data.read import read_prompts
from scen.errors import ConfigError, InputError
from scen.model.base import Base
from scen.model.keys import KeyPlace, SpanKeys
from scen.records import Edit
from scen.routing.keys import unpack_texts
from scen.routing.router import Router
from scen.samples import sample_path
from scen.snapshot.load import Place
from scen.snapshot.method import Profile, load_profile, shipped_profiles, summarise_figures
from scen.snapshot.open import OpenStore

_Item = TypeVar("_Item")

PASSES = 3
"""Prompts' worth of forward passes per edit, at most."""


@dataclass(frozen=True)
class Sample:
    """`count` edits, evenly spread, of the rows `begin` to `end` of a packaged sample: rows that no
    figure of this repository is measured on."""

    name: str
    begin: int
    end: int
    count: int


SAMPLES = (
    Sample("zsre_edits.jsonl", 400, 900, 360),
    Sample("counterfact_edits.jsonl", 100, 300, 150),
    Sample("nq_questions.jsonl", 0, 275, 135),
    Sample("written_questions.jsonl", 0, 838, 255),
)
BOUND = 0.16
"""Of the false-positive rate, as in the shipped profile: the samples' near misses are hard."""

_UNRELATED = 5  # edits per unrelated prompt; half of these prompts are held out for the test
_WIDTH = 768  # dimensions of a raw key while the router is fitted
_TRIED = 16  # edits on which expert settings are tried
_ENOUGH = 0.95  # share of them that must be answered exactly
_DEPTHS = (0.8, 2 / 3)  # of the edited layer, the default one first
_RATES = (1.0, 0.5, 2.0)  # relative to the default learning rate
_EXPERT_COST = 16  # prompts' worth of passes to train and try one expert, roughly
_TIMED = 16  # prompts that are read for the estimate of time
_FIT_S = 80.0  # seconds of the fit on one core, which hardly depends on the base
_MOST = 1000  # edits of a store on which its router is fitted
_WORSE = 0.01  # in the figures of a router

QUICK = RouterPlan(EncoderPlan(shrinkage=0.3), bound=BOUND, gate_steps=300, num_gates=1)
"""How routers are fitted here, from the router of the packaged profile. Whitening is shrunk more
than in `calibrate`, because there are fewer questions."""


@dataclass(frozen=True)
class Estimate:
    """The expected cost of a calibration: its prompts and seconds."""

    prompts: int
    seconds: float


@dataclass(frozen=True)
class QuickPlan:
    """What a quick calibration reads: the edits of each source, their questions, and the places."""

    sources: tuple[tuple[Edit, ...], ...]
    questions: Questions
    places: tuple[KeyPlace, ...]

    @classmethod
    def of(
        cls, base: Base, own: Sequence[Edit] = (), samples: Sequence[Sample] = SAMPLES
    ) -> "QuickPlan":
        """The plan for a base: the packaged samples, and the user's own edits that have
        rephrases."""
        with_rephrases = tuple(edit for edit in own if edit.rephrases)
        sources = (with_rephrases, *map(_read, samples))
        edits = sum(map(len, sources))
        budget = PASSES * edits - min(_TRIED * _EXPERT_COST, edits // 2)
        questions = _within_budget(base, sources, budget)
        return cls(sources, questions, default_places(base.num_layers))

    @property
    def edits(self) -> list[Edit]:
        """The edits of all sources."""
        return [edit for edits in self.sources for edit in edits]

    @property
    def passes(self) -> int:
        """Prompts' worth of forward passes, if the default expert settings are good enough."""
        return len(self.questions) + _TRIED * _EXPERT_COST


def estimate(base: Base, plan: QuickPlan) -> Estimate:
    """Time a batch of prompts of median length and extrapolate."""
    questions = [*plan.questions.about.questions, *plan.questions.test]
    by_length = sorted(questions, key=lambda question: len(question.text))
    middle = len(by_length) // 2
    sample = by_length[max(0, middle - _TIMED // 2) : middle + _TIMED // 2]
    read_questions(base, plan.places, sample[:2], None)  # the first pass is slower
    began = time.perf_counter()
    read_questions(base, plan.places, sample, None)
    letters = sum(len(question.text) for question in sample)
    all_letters = sum(len(question.text) for question in questions) * plan.passes / len(questions)
    reading = (time.perf_counter() - began) * all_letters / letters
    return Estimate(plan.passes, reading + _FIT_S)


def calibrate_quick(
    base: Base,
    plan: QuickPlan | None = None,
    fit: RouterPlan = QUICK,
    progress: Progress = lambda _step, _done, _total: None,
) -> Calibration:
    """A profile of a base within the budget of a quick calibration."""
    plan = plan or QuickPlan.of(base)
    keys, test = read_keys(base, plan.places, plan.questions, progress)
    router, held = _fit(keys, fit, progress)
    figures = measure_held(keys, router, held, test)
    best, trials = check_expert(base, plan.edits, progress)
    facts = {
        "how": "quick",
        "made": today(),
        "edits": [{"file": "samples", "edits": len(plan.edits)}],
        "passes": plan.passes,
        "figures": figures.to_dict(),
    }
    return Calibration(build_profile(base, best, router, facts), None, trials, figures)


def check_expert(
    base: Base, edits: Sequence[Edit], progress: Progress = lambda _step, _done, _total: None
) -> tuple[ExpertTrial, tuple[ExpertTrial, ...]]:
    """The default expert settings, if they answer enough of a few edits exactly; otherwise the best
    of some alternatives, tried until one is good enough. Returns all trials too."""
    sample, defaults = sample_edits(base, edits, _TRIED), ExpertConfig()
    last = max(base.num_layers - 2, 0)
    layers = dict.fromkeys(min(int(base.num_layers * depth), last) for depth in _DEPTHS)
    settings = list(itertools.product(_RATES, layers))
    trials: list[ExpertTrial] = []
    for rate, layer in settings:
        trial = ExpertTrial(layer, defaults.lr * rate, defaults.rank, defaults.steps)
        trials.append(try_expert(base, sample, trial))
        is_enough = trials[-1].reliability >= _ENOUGH
        progress("experts", 1, len(trials) if is_enough else len(settings))
        if is_enough:
            break
    best = max(trials, key=lambda trial: trial.score)
    return best, tuple(trials)


@dataclass(frozen=True)
class Recalibration:
    """A router fitted on a store's own edits and its description (see `StoreManifest.profile`), and
    how questions about these edits are routed: by the store's current router (`before`), and by
    routers that did not see the edit in question (`after`)."""

    router: Router
    profile: Mapping[str, Any]
    before: HeldFigures
    after: HeldFigures

    @property
    def is_worse(self) -> bool:
        """True if the new router routes fewer questions rightly, over rephrases, near misses and
        questions without an edit."""
        before, after = (summarise_figures(f.to_dict()) for f in (self.before, self.after))
        return sum(after[name] - before[name] for name in before) < -_WORSE


def calibrate_store(
    store: OpenStore,
    more: Sequence[Edit] = (),
    fit: RouterPlan = QUICK,
    progress: Progress = lambda _step, _done, _total: None,
    samples: Sequence[Sample] = SAMPLES,
) -> Recalibration:
    """A router fitted on the active edits of a store, on `more` edits, and on the packaged samples.

    The edits are represented by the raw keys in their bundles, at the places of the store, so their
    prompts are not read again; only their rephrases, near misses and other wordings are. Raises
    ConfigError for a store of method scen, which has no router, and for one without raw keys;
    InputError if there are too few edits.
    """
    snapshot = store.ledger.snapshot()
    current, base = store.loader_at(snapshot).router, store.base
    if current is None:
        raise ConfigError(
            f"--store: method {store.method.method} has no router to calibrate; a store of method "
            "scen-lr has one"
        )
    if not store.method.raw_keys:
        raise ConfigError(
            "--store: this store keeps only the compact keys of its own router "
            "(router.raw_keys=false); `scen rebase` makes one with raw keys"
        )
    entries = _spread(snapshot.entries, _MOST)
    if len(entries) < LEAST_EDITS:
        raise InputError(
            f"--store: {len(entries)} active edits; a router needs at least {LEAST_EDITS} of them"
        )
    own = [_rephrased([entry.edit for entry in entries]), _rephrased(more)]
    sources = [*own, *(map(_read, samples) if knows_wordings(base) else ())]
    count = len(own[0])
    asked = _within_budget(base, sources, PASSES * sum(map(len, sources)) + count)
    kept = store.loader.tensors([Place(e.bundle, e.row) for e in entries], ("key", "text"))
    texts = unpack_texts(kept["text"].cpu())
    known = SpanKeys.of_whole(kept["key"].cpu().half(), texts)
    keys, test = read_keys(base, current.encoder.places, asked, progress, known=known)
    is_own_N = (keys.edit_N >= 0) & (keys.edit_N < count)
    before = measure_held(keys, current, score_router(keys, current).take(is_own_N), test)
    router, held = _fit(keys, fit, progress)
    after = measure_held(keys, router, held.take(is_own_N[held.rows_N]), test)
    facts = {
        "how": "store",
        "made": today(),
        "edits": [{"file": "store", "edits": count}],
        "figures": after.to_dict(),
    }
    described = Profile({}, {}, router, facts, source="store").describe()
    return Recalibration(router, described, before, after)


def _fit(keys: RouterKeys, plan: RouterPlan, progress: Progress) -> tuple[Router, HeldOut]:
    """As `fit_router`, from the packaged router, in fewer dimensions if keys are wide."""
    if plan.prior is None:
        plan = replace(plan, prior=load_profile(shipped_profiles()[0]).router)
    projection_FG = narrowing(keys.key_NKF.shape[-1], _WIDTH)
    narrow = keys if projection_FG is None else keys.narrowed(projection_FG)
    router, held = fit_router(narrow, plan, lambda n: progress("router", n, plan.folds + 2))
    return router if projection_FG is None else router.after(projection_FG), held


def _within_budget(base: Base, sources: Sequence[Sequence[Edit]], budget: int) -> Questions:
    """Questions about the edits of each source, at most `budget` in all."""
    count = max(20, sum(map(len, sources)) // _UNRELATED)
    unrelated = read_prompts(sample_path("nq_neutral.jsonl"), count)
    whole = build_questions(base, [edits for edits in sources if edits], unrelated)
    return Questions(thin_router_set(whole.about, budget - len(whole.test)), whole.test)


def _rephrased(edits: Sequence[Edit]) -> tuple[Edit, ...]:
    """The edits, with rephrases from templates where they have none."""
    templates = question_templates(edits)
    return tuple(
        edit if edit.rephrases else replace(edit, rephrases=tuple(make_rephrases(edit, templates)))
        for edit in edits
    )


def _read(sample: Sample) -> tuple[Edit, ...]:
    batches = ingest(str(sample_path(sample.name)), Validator())
    edits = [edit for batch in batches for edit in batch.edits]
    rephrased = [edit for edit in edits[sample.begin : sample.end] if edit.rephrases]
    return _spread(rephrased, sample.count)


def _spread(items: Sequence[_Item], count: int) -> tuple[_Item, ...]:
    """At most `count` of the items, evenly spread."""
    step = max(1.0, len(items) / count)
    return tuple(items[int(i * step)] for i in range(min(count, len(items))))
