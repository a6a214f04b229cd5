"""Fit a router by cross-fitting: every score behind the threshold comes from an encoder and a gate
that were not fitted on the edit in question.

An encoder fitted on a prompt makes it look more distinct than unseen prompts will; a gate fitted on
such similarities is too confident, and a threshold set on such scores is too optimistic.

Suffixes: N questions, E edits, V inputs of the gate.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from scen.calibration.fit_encoder import EncoderPlan, RouterKeys, fit_encoder
from scen.calibration.fit_gate import (
    CLASS_WEIGHTS,
    GatePairs,
    fit_evidence,
    fit_gate,
    input_noise,
    join_pairs,
    pair_up,
)
from scen.calibration.router_set import ASKS
from scen.errors import ConfigError, InputError
from scen.routing.gate import Evidence, Gate
from scen.routing.router import Router, conformal_threshold

BOUNDS = (0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05)
_WORTH = 0.02  # recall of rephrases that a stricter bound may lose relative to the loosest
LEAST_EDITS = 20
_TUNING_STEPS = 100
_KINDS = {
    **dict.fromkeys(ASKS, 0),
    "near_miss": 1,
    "made_near_miss": 2,
    "task": 3,
    "subject_task": 4,
    "namesake": 5,
}  # see NEGATIVES


@dataclass(frozen=True)
class RouterPlan:
    """How a router is fitted. The gate averages `num_gates` gates with different seeds. `bound` is
    the maximum false-positive rate on hard negatives; None trades it off against the recall of
    rephrases (`choose_bound`). Without `has_evidence` the gate sees similarities only.
    `searches_places`: calibration searches for the places at which keys are read.

    With `prior`, a router fitted on another base with as many places, its gate is tuned in a few
    steps: cosines of whitened keys, words and manners mean the same on every base. With places that
    do not fit it, a gate is fitted from scratch. A word is as common as these questions or those of
    the prior show it."""

    encoder: EncoderPlan = field(default_factory=EncoderPlan)
    bound: float | None = None
    folds: int = 2
    gate_steps: int = 1500
    num_gates: int = 3
    hidden: int = 64
    seed: int = 0
    has_evidence: bool = True
    searches_places: bool = False
    prior: Router | None = None

    def gate(self, pairs: GatePairs) -> Gate:
        """The gate fitted on these pairs."""
        seeds = range(self.seed, self.seed + self.num_gates)
        return Gate.averaged([self._gate_of_seed(pairs, seed) for seed in seeds])

    def _gate_of_seed(self, pairs: GatePairs, seed: int) -> Gate:
        noise_V, start = None, self.prior.gate if self.prior else None
        if start is not None and len(start.direct_V) != pairs.sim_NEV.shape[-1]:
            start = None
        if self.has_evidence:
            noise_V = input_noise(pairs.sim_NEV.shape[-1], self.encoder.num_views)
        return fit_gate(
            pairs,
            _TUNING_STEPS if start else self.gate_steps,
            seed,
            self.hidden,
            is_deep=self.has_evidence,
            weights=CLASS_WEIGHTS,
            noise_V=noise_V,
            start=start,
        )

    def evidence(self, keys: RouterKeys, used_E: Tensor) -> Evidence | None:
        """The gate's inputs besides keys, fitted on the questions about these edits (bool)."""
        if not self.has_evidence:
            return None
        evidence = fit_evidence(keys, used_E, self.encoder.shrinkage)
        if self.prior is not None and self.prior.evidence is not None:
            evidence = evidence.with_common_words(self.prior.evidence)
        return evidence


@dataclass(frozen=True)
class HeldOut:
    """Scores of the questions about each edit by routers not fitted on it. `rows_N` indexes the
    questions; `own_N` is the score of the edit asked for (-inf unless it is the top-1 edit),
    `other_N` the best score of all others."""

    rows_N: Tensor
    own_N: Tensor
    other_N: Tensor

    def take(self, kept_N: Tensor) -> "HeldOut":
        """Only these questions (bool)."""
        return HeldOut(self.rows_N[kept_N], self.own_N[kept_N], self.other_N[kept_N])


@dataclass(frozen=True)
class FoldPairs:
    """The held-out questions of each fold with their candidates, on which gates are fitted."""

    pairs: tuple[GatePairs, ...]
    rows: tuple[Tensor, ...]


def fit_router(
    keys: RouterKeys, plan: RouterPlan, progress: Callable[[int], None] = lambda _: None
) -> tuple[Router, HeldOut]:
    """A router for new edits of this kind, and the held-out scores behind its threshold.

    `progress` is called after each of the `folds + 2` steps. Raises InputError if there are too few
    edits, ConfigError if there are too few hard negatives for the bound.
    """
    folds = cross_encode(keys, plan, progress)
    held = score_folds(folds, plan)
    negative_N, kind_N = hard_negatives(keys, held)
    bound = plan.bound
    if bound is None:
        bound = choose_bound(
            held.own_N[keys.of("rephrase", "asked")[held.rows_N]], negative_N, kind_N
        )
    threshold = conformal_threshold(negative_N, kind_N, bound)
    gate = plan.gate(join_pairs(folds.pairs))
    progress(1)
    all_E = torch.ones(keys.about.num_edits, dtype=torch.bool)
    encoder = fit_encoder(keys, all_E, plan.encoder)
    evidence = plan.evidence(keys, all_E)
    progress(1)
    return Router(encoder, gate, threshold, bound, negative_N, kind_N, evidence), held


def cross_encode(
    keys: RouterKeys, plan: RouterPlan, progress: Callable[[int], None] = lambda _: None
) -> FoldPairs:
    """Each fold's questions, encoded by an encoder fitted on the other folds."""
    count = keys.about.num_edits
    if count < LEAST_EDITS:
        raise InputError(f"--edits: {count} usable edits; a router needs at least {LEAST_EDITS}")
    fold_E = torch.arange(count) % plan.folds
    edit_N = keys.edit_N
    parts, rows = [], []
    for fold in range(plan.folds):
        encoder = fit_encoder(keys, fold_E != fold, plan.encoder)
        evidence = plan.evidence(keys, fold_E != fold)
        held_N = torch.where(edit_N >= 0, fold_E[edit_N.clamp_min(0)] == fold, True)
        rows.append(held_N.nonzero().squeeze(1))
        parts.append(pair_up(keys, encoder, evidence, rows[-1]).gate)
        progress(1)
    return FoldPairs(tuple(parts), tuple(rows))


def score_folds(folds: FoldPairs, plan: RouterPlan) -> HeldOut:
    """Each fold's questions, scored by a gate fitted on the other folds."""
    own, other = [], []
    for fold, pairs in enumerate(folds.pairs):
        rest = [part for i, part in enumerate(folds.pairs) if i != fold]
        own_N, other_N = pairs.best(plan.gate(join_pairs(rest)))
        own.append(own_N.masked_fill(own_N <= other_N, -torch.inf))
        other.append(other_N)
    return HeldOut(torch.cat(folds.rows), torch.cat(own), torch.cat(other))


def hard_negatives(keys: RouterKeys, held: HeldOut) -> tuple[Tensor, Tensor]:
    """The best scores of prompts that must reach no edit, and their kinds: near misses, tasks, and
    questions whose own edit is excluded, which makes them unseen questions of the same kind."""
    kind_N = torch.tensor([_KINDS.get(q.kind, -1) for q in keys.about.questions])[held.rows_N]
    return held.other_N[kind_N >= 0], kind_N[kind_N >= 0]


def choose_bound(own_N: Tensor, negative_N: Tensor, kind_N: Tensor) -> float:
    """The strictest of BOUNDS that loses at most two points of the recall of the loosest.

    `own_N` are held-out scores of rephrases (-inf: a wrong edit), the others as in
    `conformal_threshold`. Raises ConfigError if there are too few negatives for every bound.
    """
    recalls: dict[float, float] = {}
    for bound in BOUNDS:
        try:
            threshold = conformal_threshold(negative_N, kind_N, bound)
        except ConfigError:
            continue  # too few negatives for this one
        recalls[bound] = float((own_N > threshold).float().mean())
    if not recalls:
        conformal_threshold(negative_N, kind_N, BOUNDS[-1])  # raises with the counts
    min_recall = recalls[max(recalls)] - _WORTH
    return min(bound for bound, recall in recalls.items() if recall >= min_recall)
