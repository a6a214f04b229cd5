"""What routers make of test prompts, and the figures of it.

Suffixes: N prompts, B prompts of a batch, K places, F numbers of a raw key.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.routing_data import Material
from scen.routing.neurons import KeyNeurons
from scen.routing.router import Router, area_under_curve, operating_curve

Choose = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From raw keys key_BKF to the score of the best edit and its index, both [B]."""

OWN = "own prompts"
UNSEEN, NEAR, MADE, UNRELATED = "unseen", "near misses given", "near misses made", "unrelated"
_NAMES = {"prompt": OWN, "near_miss": NEAR, "made_near_miss": MADE}
_BATCH = 256


@dataclass(frozen=True)
class Scored:
    """The best score of each of N prompts; `own_N`: it is that of the edit the prompt asks for.
    None for prompts that must reach no edit."""

    score_N: Tensor
    own_N: Tensor | None

    def shares(self, threshold: float) -> dict[str, float]:
        """Percent of the prompts that reach their edit and a wrong one, or any at all."""
        over_N = self.score_N > threshold
        if self.own_N is None:
            return {"false": _percent(over_N)}
        return {"right": _percent(over_N & self.own_N), "wrong": _percent(over_N & ~self.own_N)}


@dataclass(frozen=True)
class Trial:
    """One router's scores by group of prompts, and the thresholds to look at by their label."""

    scored: Mapping[str, Scored]
    thresholds: Mapping[str, float]

    @property
    def positive_N(self) -> Tensor:
        """Scores of all rephrases; -inf where a wrong edit is the best."""
        parts = [
            s.score_N.masked_fill(~s.own_N, -torch.inf)
            for name, s in self.scored.items()
            if s.own_N is not None and name != OWN
        ]
        return torch.cat(parts)

    @property
    def negative_N(self) -> Tensor:
        """Scores of all prompts that must reach no edit, but for unrelated ones."""
        hard = (UNSEEN, NEAR, MADE)
        return torch.cat([self.scored[name].score_N for name in hard if name in self.scored])

    @property
    def area(self) -> float:
        """AUC of rephrases against hard negatives."""
        return area_under_curve(self.positive_N, self.negative_N)


def choose_by(router: Router, bank_NKF: Tensor) -> Choose:
    """Chooses among edits with these raw keys as the platform does."""
    neurons = KeyNeurons.build(router, bank_NKF)

    def choose(key_BKF: Tensor) -> tuple[Tensor, Tensor]:
        choice = neurons.choose(key_BKF)
        return choice.score_BE[:, 0], choice.index_BE[:, 0]

    return choose


def score_prompts(
    material: Material, name: str, choose: Choose, tested: Sequence[int] | None = None
) -> dict[str, Scored]:
    """The questions about the tested edits (None: all) of a stream, unseen and unrelated ones.

    Rephrases go by their source.
    """
    stream = material.streams[name]
    wanted = set(range(len(stream.edits)) if tested is None else tested)
    groups: dict[str, list[int]] = {}
    for row, question in enumerate(stream.about.questions):
        if question.edit in wanted:
            groups.setdefault(_NAMES.get(question.kind, question.source), []).append(row)
    scored = {}
    for group, rows in groups.items():
        score_N, index_N = _choose_all(choose, stream.key_NKF[rows])
        asked_N = torch.tensor([stream.about.questions[row].edit for row in rows])
        scored[group] = Scored(score_N, None if group in (NEAR, MADE) else index_N == asked_N)
    for group, key_NKF in ((UNSEEN, stream.unseen_NKF), (UNRELATED, material.unrelated_NKF)):
        if len(key_NKF):
            scored[group] = Scored(_choose_all(choose, key_NKF)[0], None)
    return scored


def _choose_all(choose: Choose, key_NKF: Tensor) -> tuple[Tensor, Tensor]:
    parts = [choose(part) for part in key_NKF.split(_BATCH)]
    return torch.cat([score for score, _ in parts]), torch.cat([index for _, index in parts])


def hindsight(scored: Mapping[str, Scored], bounds: Sequence[float]) -> dict[str, float]:
    """Thresholds chosen on the test prompts themselves: the one with most rephrases found less
    false activation, and those that keep false activation of all hard negatives at the bounds."""
    trial = Trial(scored, {})
    false_N, found_N = operating_curve(trial.positive_N, trial.negative_N)
    cut_N = trial.negative_N.sort(descending=True).values
    best = int((found_N - false_N).argmax())
    cuts = {"best in hindsight": float(cut_N[best])}
    return cuts | {f"{b:g} in hindsight": float(cut_N[int(b * len(cut_N))]) for b in bounds}


def pooled(trials: Sequence[Trial], label: str) -> dict[str, object]:
    """The figures of all prompts of all trials, each against its own router's threshold. `n`
    counts answers: unseen and unrelated prompts are put to every router."""
    cuts = [trial.thresholds[label] for trial in trials]
    figures: dict[str, object] = {}
    for group in _groups(trials):
        parts = [(t.scored[group], c) for t, c in zip(trials, cuts, strict=True)
                 if group in t.scored]  # fmt: skip
        over = torch.cat([s.score_N - cut for s, cut in parts])
        owns = [s.own_N for s, _ in parts if s.own_N is not None]
        joined = Scored(over, torch.cat(owns) if owns else None)
        figures[group] = joined.shares(0.0) | {"n": len(over)}
    return figures | _common(trials, cuts)


def mean_of_trials(trials: Sequence[Trial], label: str) -> dict[str, object]:
    """The means over the trials of what each gives alone."""
    cuts = [trial.thresholds[label] for trial in trials]
    figures: dict[str, object] = {}
    for group in _groups(trials):
        each = [t.scored[group].shares(c) for t, c in zip(trials, cuts, strict=True)
                if group in t.scored]  # fmt: skip
        figures[group] = {key: sum(s[key] for s in each) / len(each) for key in each[0]}
    return figures | _common(trials, cuts)


def _groups(trials: Sequence[Trial]) -> list[str]:
    """The groups of all trials: rephrases first, then what must reach no edit."""
    names = dict.fromkeys(name for trial in trials for name in trial.scored)
    last = [name for name in (UNSEEN, NEAR, MADE, UNRELATED) if name in names]
    return [OWN, *sorted(set(names) - {OWN, *last}), *last]


def _common(trials: Sequence[Trial], cuts: Sequence[float]) -> dict[str, object]:
    area = sum(trial.area for trial in trials) / len(trials)
    return {"threshold": sum(cuts) / len(cuts), "auc": area, "routers": len(trials)}


def _percent(is_so_N: Tensor) -> float:
    return 100 * float(is_so_N.float().mean())
