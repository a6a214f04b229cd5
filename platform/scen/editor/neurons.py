"""Indexing neurons: what decides, from one pass of the base over a prompt, which expert speaks."""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from scen.editor.prefill import Prefill
from scen.editor.route import Route


class NeuronBank(Protocol):
    """The neurons of many edits. `layers` are those whose `down_proj` inputs routing reads."""

    @property
    def layers(self) -> frozenset[int]: ...

    def __len__(self) -> int: ...

    def route(self, filled: Prefill) -> Route:
        """Each row's expert, or the base."""
        ...


@dataclass(frozen=True)
class SigmoidNeurons:
    """One vector per edit over the `down_proj` input at the last prompt token (arXiv 2404.02699).

    The score is sigmoid(w . h); the best edit speaks above `theta`. `weight_EF` float.
    """

    layer: int
    weight_EF: Tensor
    theta: float

    @property
    def layers(self) -> frozenset[int]:
        """The edited layer."""
        return frozenset({self.layer})

    def __len__(self) -> int:
        return len(self.weight_EF)

    def score(self, filled: Prefill) -> Tensor:
        """score_BE: what each neuron makes of each prompt."""
        h_BF = filled.last(self.layer).to(self.weight_EF.dtype)
        return torch.sigmoid(h_BF @ self.weight_EF.T)

    def route(self, filled: Prefill) -> Route:
        """The edit with the largest score of each row, where it is above theta."""
        if len(self) == 0:
            return Route.base(len(filled.batch), filled.logits_BV.device)
        score_BE, index_BE = self.score(filled).topk(min(2, len(self)), dim=1)
        chosen_BE = index_BE.masked_fill(score_BE <= self.theta, -1)
        rival_B = chosen_BE[:, 1] if len(self) > 1 else torch.full_like(index_BE[:, 0], -1)
        whole_B = torch.zeros_like(rival_B)
        return Route(chosen_BE[:, 0], score_BE[:, 0].float(), index_BE[:, 0], rival_B, whole_B)


def initial_neuron(width: int, seed: int, dtype: torch.dtype) -> Tensor:
    """w_F as `torch.nn.Linear(width, 1)` draws it, from the edit's own seed."""
    bound = 1 / math.sqrt(width)
    draw = torch.rand(width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return ((2 * draw - 1) * bound).to(dtype)
