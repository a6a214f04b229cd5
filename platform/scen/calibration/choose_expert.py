"""Search for a base's expert settings: layer, learning rate, rank and steps.

Each trial trains experts for a few edits and decodes freely with each edit's own expert (oracle
route), independently of routing.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from scen.config import ExpertConfig
from scen.model.base import Base
from scen.model.batch import pad_prompts
from scen.model.decode import EditedModel, decode
from scen.model.expert import ExpertBank, LowRankBank, build_bank
from scen.model.route import Route, SigmoidNeurons
from scen.records import Edit
from scen.training.experts import ExpertPlan, fit_experts

_DEPTHS = (0.5, 0.6, 2 / 3, 0.75, 0.83)
_RATES = (1e-2, 2e-2, 4e-2)
_RANKS = (2, 4, 8)
_STEPS = (15, 25, 40)
_TOLERANCE = 0.01
_SPARE_TOKENS = 8  # an answer this much longer than its target cannot be the target


@dataclass(frozen=True)
class ExpertTrial:
    """Settings and their result: the shares of edits (`reliability`) and of their first rephrases
    (`generality`) answered exactly, and the trial's duration in seconds."""

    layer: int
    lr: float
    rank: int
    steps: int
    reliability: float = 0.0
    generality: float = 0.0
    seconds: float = 0.0

    @property
    def score(self) -> float:
        """Mean of reliability and generality."""
        return (self.reliability + self.generality) / 2

    def cost(self, num_layers: int) -> int:
        """Relative cost of training and storing."""
        return self.rank * self.steps * (num_layers - self.layer)


@dataclass(frozen=True)
class ExpertGrid:
    """The values tried on each axis, with the other axes at the best values so far."""

    layers: tuple[int, ...]
    rates: tuple[float, ...] = _RATES
    ranks: tuple[int, ...] = _RANKS
    steps: tuple[int, ...] = _STEPS

    @classmethod
    def of(cls, num_layers: int) -> "ExpertGrid":
        """Layers from the middle to five sixths of the depth; the last one cannot be edited."""
        layers = (min(max(int(num_layers * d), 0), num_layers - 2) for d in _DEPTHS)
        return cls(tuple(dict.fromkeys(layers)))

    @property
    def most_trials(self) -> int:
        """Maximum number of trials."""
        return sum(map(len, (self.layers, self.rates, self.ranks, self.steps)))


def sample_edits(base: Base, edits: Sequence[Edit], count: int) -> list[Edit]:
    """Up to `count` edits to try expert settings on: half of them evenly spread, half with the
    longest targets, since settings that suffice for most edits may be too weak for the hardest."""
    half = count // 2
    length = [len(base.template.encode_target(edit.target)) for edit in edits]
    longest = sorted(range(len(edits)), key=lambda i: -length[i])[:half]
    others = sorted(set(range(len(edits))) - set(longest))
    spread = others[:: max(1, len(others) // (count - half))][: count - half]
    return [edits[i] for i in sorted([*longest, *spread])]


def choose_expert(
    base: Base,
    edits: Sequence[Edit],
    grid: ExpertGrid,
    progress: Callable[[int], None] = lambda _: None,
) -> tuple[ExpertTrial, tuple[ExpertTrial, ...]]:
    """The cheapest settings within a percentage point of the best, and all trials; searched one
    axis at a time.

    `progress` is called after each value, including those already tried.
    """
    defaults = ExpertConfig()
    middle = grid.layers[len(grid.layers) // 2]
    best = ExpertTrial(middle, defaults.lr, defaults.rank, defaults.steps)
    known: dict[ExpertTrial, ExpertTrial] = {}
    for name, values in (
        ("layer", grid.layers),
        ("lr", grid.rates),
        ("rank", grid.ranks),
        ("steps", grid.steps),
    ):
        for value in values:
            change: dict[str, Any] = {name: value}
            trial = _untried(replace(best, **change))
            if trial not in known:
                known[trial] = try_expert(base, edits, trial)
            progress(1)
        best = cheapest(list(known.values()), base.num_layers)
    return best, tuple(known.values())


def _untried(trial: ExpertTrial) -> ExpertTrial:
    return ExpertTrial(trial.layer, trial.lr, trial.rank, trial.steps)


def cheapest(trials: Sequence[ExpertTrial], num_layers: int) -> ExpertTrial:
    """The cheapest of the trials within a percentage point of the best."""
    min_score = max(trial.score for trial in trials) - _TOLERANCE
    good = [trial for trial in trials if trial.score >= min_score]
    return min(good, key=lambda trial: (trial.cost(num_layers), -trial.score))


def try_expert(base: Base, edits: Sequence[Edit], trial: ExpertTrial) -> ExpertTrial:
    """The trial with its result: experts for these edits, all of which have rephrases."""
    began = time.perf_counter()
    encoded = [base.template.encode_edit(edit) for edit in edits]
    defaults = ExpertConfig()
    plan = ExpertPlan("scen-lr", trial.layer, trial.steps, trial.lr, trial.rank, defaults.stop_loss)
    bank = fit_experts(base.model, plan, encoded, base.pad_id).bank
    stored = {name: tensor.half().float() for name, tensor in bank.tensors().items()}
    edited = bare_model(base, trial.layer, build_bank(stored))
    reliability = _share_exact(base, edited, edits, [edit.prompt for edit in edits])
    generality = _share_exact(base, edited, edits, [edit.rephrases[0].text for edit in edits])
    seconds = time.perf_counter() - began
    return replace(trial, reliability=reliability, generality=generality, seconds=seconds)


def _share_exact(
    base: Base, edited: EditedModel, edits: Sequence[Edit], prompts: Sequence[str]
) -> float:
    """The share of prompts answered exactly with the target of the edit at the same index."""
    encoded = [base.template.encode_prompt(prompt) for prompt in prompts]
    targets = [base.template.encode_target(edit.target) for edit in edits]
    limit = max(map(len, targets)) + _SPARE_TOKENS
    route = Route.fixed(list(range(len(edits))), base.device)
    decoded = decode(edited, pad_prompts(encoded, base.pad_id, base.device), limit, route)
    answers = [base.template.decode(tokens) for tokens in decoded.tokens]
    hits = [answer == edit.target for answer, edit in zip(answers, edits, strict=True)]
    return sum(hits) / len(hits)


def bare_model(base: Base, layer: int = 0, bank: ExpertBank | None = None) -> EditedModel:
    """The base with a bank of experts (None: no experts) and no neurons, for given routes."""
    config = base.model.config
    wide, narrow = config.intermediate_size, config.hidden_size
    if bank is None:
        bank = LowRankBank(torch.zeros(0, 1, wide), torch.zeros(0, narrow, 1))
    neurons = SigmoidNeurons(layer, torch.zeros(0, wide), 1.0)
    return EditedModel(base.model, layer, bank, neurons, base.pad_id, base.stop_ids)
