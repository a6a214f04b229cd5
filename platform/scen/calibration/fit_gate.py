"""Fits the gate: own rephrases against other edits' prompts, near misses and unrelated prompts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from scen.routing.gate import Gate

_BATCH = 128  # prompts of each class in a step
_RATE, _DEEP_RATE, _DECAY = 1e-2, 3e-3, 1e-2
_SCORED = 1024  # prompts that are scored at a time
_NEVER = -1e4
_FIRST = 0.5  # weight of own edits above others, relative to their log-odds


@dataclass(frozen=True)
class GatePairs:
    """N prompts, each with E candidates (an edit and one of the prompt's spans): `sim_NEV`, the
    inputs of the gate, `own_NE` (bool: it asks for this one), and the class of each prompt
    (`class_N` int64), by which the loss is evened out. `real_NE` (bool) is False where a prompt has
    fewer candidates."""

    sim_NEV: Tensor
    own_NE: Tensor
    class_N: Tensor
    real_NE: Tensor | None = None

    def take(self, rows: Tensor) -> "GatePairs":
        """These prompts."""
        real_NE = None if self.real_NE is None else self.real_NE[rows]
        return GatePairs(self.sim_NEV[rows], self.own_NE[rows], self.class_N[rows], real_NE)

    def views(self, columns: Tensor) -> "GatePairs":
        """The same with some of the inputs only."""
        return GatePairs(self.sim_NEV[..., columns], self.own_NE, self.class_N, self.real_NE)

    def first(self, count: int) -> "GatePairs":
        """The same with the first candidates of each prompt only."""
        real_NE = None if self.real_NE is None else self.real_NE[:, :count]
        return GatePairs(self.sim_NEV[:, :count], self.own_NE[:, :count], self.class_N, real_NE)

    def best(self, gate: Gate) -> tuple[Tensor, Tensor]:
        """own_N and other_N: the best scores of the edit that a prompt asks for and of all others,
        -inf where there is none."""
        parts = [gate(part.float()) for part in self.sim_NEV.split(_SCORED)]
        score_NE = torch.cat(parts)
        if self.real_NE is not None:
            score_NE = score_NE.masked_fill(~self.real_NE, -torch.inf)
        own_N = score_NE.masked_fill(~self.own_NE, -torch.inf).amax(1)
        return own_N, score_NE.masked_fill(self.own_NE, -torch.inf).amax(1)


def join_pairs(parts: Sequence[GatePairs]) -> GatePairs:
    """All prompts of several sets."""
    most = max(p.own_NE.shape[1] for p in parts)
    filled = [_widened(p, most) for p in parts]
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
    """A gate from examples; the same seed gives the same gate.

    Loss: the log-odds of own edits, each by its best span, upwards; of each prompt's other
    candidates, soft maximum, downwards, since one wrong edit is enough; and own edits above those
    others. Classes weigh as `weights` says, 1 by default. `is_deep`: two hidden layers. `noise_V`:
    the standard deviation of noise on each input, sampled per prompt.
    """
    gate = Gate.initial(pairs.sim_NEV.shape[-1], hidden, seed, is_deep=is_deep)
    names = pairs.class_N.unique()
    classes = [(pairs.class_N == c).nonzero().squeeze(1) for c in names]
    weight_C = torch.tensor([(weights or {}).get(int(c), 1.0) for c in names])
    parameters = [t.requires_grad_() for t in gate.tensors().values()]
    rate = _DEEP_RATE if is_deep else _RATE
    adam = torch.optim.AdamW(parameters, lr=rate, weight_decay=_DECAY)
    schedule = _schedule(adam, rate, steps, is_deep=is_deep)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        batch = [rows[_sample(len(rows), generator)] for rows in classes]
        some = pairs.take(torch.cat(batch))
        x_NEV = some.sim_NEV.float()
        if noise_V is not None:
            x_NEV += noise_V * torch.randn(len(x_NEV), 1, len(noise_V), generator=generator)
        loss = _loss(gate(x_NEV), some, [len(rows) for rows in batch], weight_C)
        adam.zero_grad()
        loss.backward()
        adam.step()
        schedule.step()
    return Gate.from_tensors({name: t.detach() for name, t in gate.tensors().items()})


def _schedule(
    adam: torch.optim.AdamW, rate: float, steps: int, *, is_deep: bool
) -> torch.optim.lr_scheduler.LRScheduler:
    """Decay to zero; two layers need a warm-up as well, or they diverge."""
    if is_deep:
        return torch.optim.lr_scheduler.OneCycleLR(adam, rate, total_steps=steps)
    return torch.optim.lr_scheduler.LinearLR(adam, 1.0, 0.0, total_iters=steps)


def _loss(score_NE: Tensor, pairs: GatePairs, sizes: Sequence[int], weight_C: Tensor) -> Tensor:
    """The loss of prompts sorted by class, `sizes` of each."""
    others_N = score_NE.masked_fill(pairs.own_NE | ~_real(pairs), _NEVER).logsumexp(1)
    own_N = score_NE.masked_fill(~pairs.own_NE, _NEVER).amax(1)
    asks_N = pairs.own_NE.any(1)
    negatives, positives, positive_weights = [], [], []
    for weight, others, own, asks in zip(
        weight_C, others_N.split(sizes), own_N.split(sizes), asks_N.split(sizes), strict=True
    ):
        negatives.append(softplus(others).mean())
        if bool(asks.any()):
            first = softplus(others[asks] - own[asks])
            positives.append((softplus(-own[asks]) + _FIRST * first).mean())
            positive_weights.append(weight)
    return _mean(negatives, weight_C) + _mean(positives, torch.stack(positive_weights))


def _mean(losses: list[Tensor], weight_C: Tensor) -> Tensor:
    return (torch.stack(losses) * weight_C).sum() / weight_C.sum()


def _real(pairs: GatePairs) -> Tensor:
    return torch.ones_like(pairs.own_NE) if pairs.real_NE is None else pairs.real_NE


def _widened(pairs: GatePairs, width: int) -> GatePairs:
    """The same with room for more candidates."""
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
