"""Fits the gate: own rephrases against other edits' prompts, near misses and unrelated prompts."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from scen.routing.gate import Gate

_BATCH = 256


@dataclass(frozen=True)
class GatePairs:
    """N prompts, each beside E candidate edits: `sim_NEV`, `own_NE` (bool: it asks for this one),
    and the class of each prompt (`class_N` int64), by which the loss is evened out."""

    sim_NEV: Tensor
    own_NE: Tensor
    class_N: Tensor

    def take(self, rows: Tensor) -> "GatePairs":
        """These prompts."""
        return GatePairs(self.sim_NEV[rows], self.own_NE[rows], self.class_N[rows])

    def views(self, columns: Tensor) -> "GatePairs":
        """The same with some of the similarities only."""
        return GatePairs(self.sim_NEV[..., columns], self.own_NE, self.class_N)


def join_pairs(parts: Sequence[GatePairs]) -> GatePairs:
    """All prompts of several sets."""
    return GatePairs(
        torch.cat([p.sim_NEV for p in parts]),
        torch.cat([p.own_NE for p in parts]),
        torch.cat([p.class_N for p in parts]),
    )


def fit_gate(pairs: GatePairs, steps: int, seed: int, hidden: int = 32) -> Gate:
    """A gate from examples; the same seed gives the same gate.

    Loss: the log-odds of own edits upwards; of each prompt's other candidates, soft maximum,
    downwards, since one wrong edit is enough; classes weigh evenly.
    """
    gate = Gate.drawn(pairs.sim_NEV.shape[-1], hidden, seed)
    own_NV = pairs.sim_NEV[pairs.own_NE]
    classes = [(pairs.class_N == c).nonzero().squeeze(1) for c in pairs.class_N.unique()]
    weights = [t.requires_grad_() for t in gate.tensors().values()]
    adam = torch.optim.AdamW(weights, lr=1e-2, weight_decay=1e-3)
    slow = torch.optim.lr_scheduler.LinearLR(adam, 1.0, 0.0, total_iters=steps)
    draw = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        loss = softplus(-gate(own_NV[_some(len(own_NV), draw)])).mean()
        for rows in classes:
            some = pairs.take(rows[_some(len(rows), draw)])
            score_NE = gate(some.sim_NEV).masked_fill(some.own_NE, -1e9)
            loss = loss + softplus(score_NE.logsumexp(1)).mean() / len(classes)
        adam.zero_grad()
        loss.backward()
        adam.step()
        slow.step()
    return Gate.from_tensors({name: t.detach() for name, t in gate.tensors().items()})


def _some(count: int, draw: torch.Generator) -> Tensor:
    return torch.randint(count, (min(_BATCH, count),), generator=draw)
