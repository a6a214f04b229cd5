"""Fit the gate: an edit's own questions against those of other edits, near misses, tasks and
unrelated prompts.

Suffixes: N prompts, E candidates, V inputs of the gate, C classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from scen.routing.gate import Gate

_BATCH = 128  # prompts per class and step
_RATE, _DEEP_RATE, _DECAY = 1e-2, 3e-3, 1e-2
_SCORED = 1024  # prompts scored at a time
_NEVER = -1e4  # masks a candidate; finite, so that gradients are
_FIRST = 0.5  # weight of the ranking term (own edit above others) relative to the log-odds term


@dataclass(frozen=True)
class GatePairs:
    """N prompts, each with E candidates (an edit and one of the prompt's spans).

    `sim_NEV` are the inputs of the gate, `own_NE` (bool) marks candidates with the edit that the
    prompt asks for, `class_N` (int64) is the prompt's class, over which the loss is balanced, and
    `real_NE` (bool) is False at padding (None: no padding).
    """

    sim_NEV: Tensor
    own_NE: Tensor
    class_N: Tensor
    real_NE: Tensor | None = None

    def take(self, rows: Tensor) -> "GatePairs":
        """These prompts."""
        real_NE = None if self.real_NE is None else self.real_NE[rows]
        return GatePairs(self.sim_NEV[rows], self.own_NE[rows], self.class_N[rows], real_NE)

    def views(self, columns: Tensor) -> "GatePairs":
        """The same with only these inputs."""
        return GatePairs(self.sim_NEV[..., columns], self.own_NE, self.class_N, self.real_NE)

    def first(self, count: int) -> "GatePairs":
        """The same with only the first `count` candidates of each prompt."""
        real_NE = None if self.real_NE is None else self.real_NE[:, :count]
        return GatePairs(self.sim_NEV[:, :count], self.own_NE[:, :count], self.class_N, real_NE)

    def best(self, gate: Gate) -> tuple[Tensor, Tensor]:
        """own_N and other_N: the best scores of the edit that a prompt asks for and of all others;
        -inf if there is none."""
        parts = [gate(part.float()) for part in self.sim_NEV.split(_SCORED)]
        score_NE = torch.cat(parts)
        if self.real_NE is not None:
            score_NE = score_NE.masked_fill(~self.real_NE, -torch.inf)
        own_N = score_NE.masked_fill(~self.own_NE, -torch.inf).amax(1)
        return own_N, score_NE.masked_fill(self.own_NE, -torch.inf).amax(1)


def join_pairs(parts: Sequence[GatePairs]) -> GatePairs:
    """Concatenate several sets of prompts, padded to the same number of candidates."""
    width = max(p.own_NE.shape[1] for p in parts)
    filled = [_widened(p, width) for p in parts]
    return GatePairs(
        torch.cat([p.sim_NEV for p in filled]),
        torch.cat([p.own_NE for p in filled]),
        torch.cat([p.class_N for p in filled]),
        torch.cat([_real(p) for p in filled]),
    )


def fit_gate(  # noqa: PLR0913
    pairs: GatePairs,
    steps: int,
    seed: int,
    hidden: int = 32,
    *,
    is_deep: bool = False,
    weights: Mapping[int, float] | None = None,
    noise_V: Tensor | None = None,
) -> Gate:
    """Train a gate; deterministic for a given seed.

    The loss raises the log-odds of own edits (by their best span), lowers the soft maximum over a
    prompt's other candidates (one wrong edit is enough to fail), and ranks own edits above others.
    `weights` are class weights, 1 by default. `is_deep`: two hidden layers. `noise_V`: standard
    deviation of the noise on each input, sampled per prompt.
    """
    gate = Gate.initial(pairs.sim_NEV.shape[-1], hidden, seed, is_deep=is_deep)
    labels = pairs.class_N.unique()
    classes = [(pairs.class_N == c).nonzero().squeeze(1) for c in labels]
    weight_C = torch.tensor([(weights or {}).get(int(c), 1.0) for c in labels])
    parameters = [t.requires_grad_() for t in gate.tensors().values()]
    rate = _DEEP_RATE if is_deep else _RATE
    adam = torch.optim.AdamW(parameters, lr=rate, weight_decay=_DECAY)
    schedule = _schedule(adam, rate, steps, is_deep=is_deep)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        sampled = [rows[_sample(len(rows), generator)] for rows in classes]
        batch = pairs.take(torch.cat(sampled))
        x_NEV = batch.sim_NEV.float()
        if noise_V is not None:
            x_NEV += noise_V * torch.randn(len(x_NEV), 1, len(noise_V), generator=generator)
        loss = _loss(gate(x_NEV), batch, [len(rows) for rows in sampled], weight_C)
        adam.zero_grad()
        loss.backward()
        adam.step()
        schedule.step()
    return Gate.from_tensors({name: t.detach() for name, t in gate.tensors().items()})


def _schedule(
    adam: torch.optim.AdamW, rate: float, steps: int, *, is_deep: bool
) -> torch.optim.lr_scheduler.LRScheduler:
    """Learning-rate decay to zero; two layers also need a warm-up, or they diverge."""
    if is_deep:
        return torch.optim.lr_scheduler.OneCycleLR(adam, rate, total_steps=steps)
    return torch.optim.lr_scheduler.LinearLR(adam, 1.0, 0.0, total_iters=steps)


def _loss(score_NE: Tensor, pairs: GatePairs, sizes: Sequence[int], weight_C: Tensor) -> Tensor:
    """The loss of prompts sorted by class, with `sizes` prompts per class."""
    others_N = score_NE.masked_fill(pairs.own_NE | ~_real(pairs), _NEVER).logsumexp(1)
    own_N = score_NE.masked_fill(~pairs.own_NE, _NEVER).amax(1)
    asks_N = pairs.own_NE.any(1)
    negatives, positives, positive_weights = [], [], []
    for weight, others, own, asks in zip(
        weight_C, others_N.split(sizes), own_N.split(sizes), asks_N.split(sizes), strict=True
    ):
        negatives.append(softplus(others).mean())
        if bool(asks.any()):
            ranking = softplus(others[asks] - own[asks])
            positives.append((softplus(-own[asks]) + _FIRST * ranking).mean())
            positive_weights.append(weight)
    return _mean(negatives, weight_C) + _mean(positives, torch.stack(positive_weights))


def _mean(losses: list[Tensor], weight_C: Tensor) -> Tensor:
    return (torch.stack(losses) * weight_C).sum() / weight_C.sum()


def _real(pairs: GatePairs) -> Tensor:
    return torch.ones_like(pairs.own_NE) if pairs.real_NE is None else pairs.real_NE


def _widened(pairs: GatePairs, width: int) -> GatePairs:
    """The same, padded to `width` candidates."""
    more = width - pairs.own_NE.shape[1]
    pad = torch.nn.functional.pad
    return GatePairs(
        pad(pairs.sim_NEV, (0, 0, 0, more)),
        pad(pairs.own_NE, (0, more)),
        pairs.class_N,
        pad(_real(pairs), (0, more)),
    )


def _sample(count: int, generator: torch.Generator) -> Tensor:
    return torch.randint(count, (min(_BATCH, count),), generator=generator)
