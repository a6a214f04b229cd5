"""Quick calibration, for the first use of a base: minutes on one core instead of an hour.

Where keys are read is a prior over relative depth, expert settings are the usual ones, checked on
a few edits, and the router is fitted as in `calibrate`, on a part of the packaged samples. The cost
is bounded: at most `PASSES` prompts' worth of forward passes per edit.
"""

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from scen.calibration.calibrate import (
    Calibration,
    Progress,
    Questions,
    build_profile,
    build_questions,
    fit_and_measure,
    knows_wordings,
    read_keys,
)
from scen.calibration.choose_expert import ExpertTrial, sample_edits, try_expert
from scen.calibration.fit_router import RouterPlan
from scen.calibration.places import read_questions
from scen.calibration.router_set import thin_router_set
from scen.config import ExpertConfig
from scen.data import Validator, ingest
from scen.data.read import read_prompts
from scen.model.base import Base
from scen.model.keys import KeyKind, KeyPlace
from scen.records import Edit
from scen.samples import sample_path

PASSES = 3
"""Prompts' worth of forward passes per edit, at most."""

# The profile of SmolLM2-135M reads span keys at 6, 9 and 18 of 30 layers and last-token keys at 9,
# 15 and 24; a search on Qwen2.5-Coder-0.5B chose means at 2 and 5 of 24 layers and last-token keys
# at 17 and 22. Early means tell which entity is meant, late last tokens what is asked of it.
_PLACES: tuple[tuple[KeyKind, float], ...] = (
    ("span", 0.2),
    ("span", 0.3),
    ("last", 0.3),
    ("last", 0.5),
    ("span", 0.6),
    ("last", 0.8),
)
# Rows of the samples that no figure of this repository is measured on, and how many of them.
_SAMPLES = (
    ("zsre_edits.jsonl", 400, 900, 240),
    ("counterfact_edits.jsonl", 100, 300, 100),
    ("nq_questions.jsonl", 0, 275, 90),
    ("written_questions.jsonl", 0, 838, 170),
)
_UNRELATED = 120  # prompts of a sample, half of them held out for the test
_WIDTH = 1024  # dimensions of a raw key while the router is fitted
_PLAN = RouterPlan(gate_steps=500, num_gates=2)
_TRIED = 16  # edits on which expert settings are tried
_ENOUGH = 0.95  # share of them that must be answered exactly
_DEPTHS = (0.8, 2 / 3)  # of the edited layer, the usual one first
_RATES = (1.0, 0.5, 2.0)  # relative to the default learning rate
_EXPERT_COST = 16  # prompts' worth of passes to train and try one expert, roughly


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
    def of(cls, base: Base, own: Sequence[Edit] = ()) -> "QuickPlan":
        """The plan for a base, with the packaged samples and the user's own edits that have
        rephrases."""
        sources = [_spread(_read(name, begin, end), count) for name, begin, end, count in _SAMPLES]
        sources.append(tuple(edit for edit in own if edit.rephrases))
        unrelated = read_prompts(sample_path("nq_neutral.jsonl"), _UNRELATED)
        whole = build_questions(base, sources, unrelated)
        budget = PASSES * sum(map(len, sources)) - len(whole.test) - _TRIED * _EXPERT_COST
        thinned = thin_router_set(whole.about, budget)
        return cls(tuple(sources), Questions(thinned, whole.test), usual_places(base.num_layers))

    @property
    def edits(self) -> list[Edit]:
        """The edits of all sources."""
        return [edit for edits in self.sources for edit in edits]

    @property
    def passes(self) -> int:
        """Prompts' worth of forward passes, as long as the usual expert settings hold."""
        return len(self.questions) + _TRIED * _EXPERT_COST


def can_calibrate(base: Base) -> bool:
    """True if the base reads the packaged samples, which are English."""
    return knows_wordings(base)


def usual_places(num_layers: int) -> tuple[KeyPlace, ...]:
    """Where keys are read, by a prior over relative depth."""
    places = (KeyPlace(min(max(1, int(num_layers * at)), num_layers - 1), k) for k, at in _PLACES)
    return tuple(sorted(dict.fromkeys(places), key=lambda place: place.layer))


def estimate(base: Base, plan: QuickPlan, fit_seconds: float = 45.0) -> Estimate:
    """Measure a few of the prompts and extrapolate. `fit_seconds` is the time of the fit itself,
    which hardly depends on the base."""
    questions = [*plan.questions.about.questions, *plan.questions.test]
    sample = questions[:: max(1, len(questions) // 12)]
    read_questions(base, plan.places, sample[:2], None)  # the first pass is slower
    began = time.perf_counter()
    read_questions(base, plan.places, sample, None)
    per_prompt = (time.perf_counter() - began) / len(sample)
    return Estimate(plan.passes, per_prompt * plan.passes + fit_seconds)


def calibrate_quick(
    base: Base,
    plan: QuickPlan | None = None,
    bound: float | None = None,
    progress: Progress = lambda _step, _done, _total: None,
) -> Calibration:
    """A profile of a base within the budget of a quick calibration. `bound` as in `RouterPlan`."""
    plan = plan or QuickPlan.of(base)
    keys, test, projection = read_keys(base, plan.places, plan.questions, progress, _WIDTH)
    fit = RouterPlan(bound=bound, gate_steps=_PLAN.gate_steps, num_gates=_PLAN.num_gates)
    router, figures = fit_and_measure(keys, test, projection, fit, progress)
    best, trials = check_expert(base, plan.edits, progress)
    facts = {
        "how": "quick",
        "made": datetime.now(UTC).date().isoformat(),
        "edits": [{"file": "samples", "edits": len(plan.edits)}],
        "passes": plan.passes,
        "figures": figures.to_dict(),
    }
    return Calibration(build_profile(base, best, router, facts), None, trials, figures)


def check_expert(
    base: Base, edits: Sequence[Edit], progress: Progress = lambda _step, _done, _total: None
) -> tuple[ExpertTrial, tuple[ExpertTrial, ...]]:
    """The usual expert settings, if they answer enough of a few edits exactly; otherwise the best
    of some alternatives, tried until one is good enough. Returns all trials too."""
    sample, usual = sample_edits(base, edits, _TRIED), ExpertConfig()
    last = max(base.num_layers - 2, 0)
    trials: list[ExpertTrial] = []
    for rate, depth in itertools.product(_RATES, _DEPTHS):
        layer = min(int(base.num_layers * depth), last)
        trial = ExpertTrial(layer, usual.lr * rate, usual.rank, usual.steps)
        trials.append(try_expert(base, sample, trial))
        progress("experts", 1, len(_RATES) * len(_DEPTHS))
        if trials[-1].reliability >= _ENOUGH:
            break
    best = max(trials, key=lambda trial: trial.score)
    return best, tuple(trials)


def _read(name: str, begin: int, end: int) -> list[Edit]:
    batches = ingest(str(sample_path(name)), Validator())
    return list(itertools.chain.from_iterable(batch.edits for batch in batches))[begin:end]


def _spread(edits: Sequence[Edit], count: int) -> tuple[Edit, ...]:
    """About `count` of the edits, evenly spread."""
    rephrased = [edit for edit in edits if edit.rephrases]
    step = len(rephrased) / count
    return tuple(rephrased[int(i * step)] for i in range(count) if int(i * step) < len(rephrased))
