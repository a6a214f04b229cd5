"""Routes, which map each row of a batch to an expert or the base, and sigmoid neurons."""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from scen.model.prefill import Prefill


@dataclass(frozen=True)
class Route:
    """The expert of each row, and the scores behind it.

    `expert_B` int64: index into the bank, -1 for the base. `score_B` float32: the best score.
    `nearest_B` int64: the top-1 edit, chosen or not; -1 for an empty bank. `runner_up_B` int64: the
    edit that would be chosen without the top-1 edit; -1 for none. `span_B` int64: the span of the
    message that is nearest to the top-1 edit; 0 for the whole message.
    """

    expert_B: Tensor
    score_B: Tensor
    nearest_B: Tensor
    runner_up_B: Tensor
    span_B: Tensor

    @classmethod
    def base(cls, rows: int, device: torch.device | str = "cpu") -> "Route":
        """The route of a batch that uses the base only."""
        none_B = torch.full((rows,), -1, device=device)
        whole_B = torch.zeros_like(none_B)
        return cls(none_B, torch.zeros(rows, device=device), none_B, none_B, whole_B)

    @classmethod
    def fixed(cls, experts: list[int], device: torch.device | str = "cpu") -> "Route":
        """A predetermined route, such as each edit to its own expert."""
        expert_B = torch.tensor(experts, device=device)
        none_B = torch.full_like(expert_B, -1)
        whole_B, one_B = torch.zeros_like(expert_B), torch.ones(len(experts), device=device)
        return cls(expert_B, one_B, expert_B, none_B, whole_B)

    @property
    def rows_R(self) -> Tensor:
        """The rows that use an expert."""
        return (self.expert_B >= 0).nonzero().squeeze(1)

    @property
    def is_base(self) -> bool:
        """True if no row uses an expert."""
        return not bool((self.expert_B >= 0).any())

    def take(self, rows: Tensor) -> "Route":
        """The route of these rows."""
        return Route(*(column[rows] for column in self._columns))

    def to(self, device: torch.device) -> "Route":
        """A copy on this device."""
        return Route(*(column.to(device) for column in self._columns))

    @property
    def _columns(self) -> tuple[Tensor, ...]:
        return self.expert_B, self.score_B, self.nearest_B, self.runner_up_B, self.span_B


class NeuronBank(Protocol):
    """The neurons of many edits. `layers` are the layers whose `down_proj` inputs routing reads."""

    @property
    def layers(self) -> frozenset[int]: ...

    def __len__(self) -> int: ...

    def route(self, filled: Prefill) -> Route:
        """The expert of each row, or the base."""
        ...


@dataclass(frozen=True)
class SigmoidNeurons:
    """One vector per edit over the `down_proj` input at the last prompt token (arXiv 2404.02699).

    The score is sigmoid(w . h); the top-1 edit is chosen if it scores above `theta`. `weight_EF` is
    a float tensor.
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
        """score_BE: the score of each edit for each prompt."""
        return self.score_last(filled.last(self.layer))

    def route(self, filled: Prefill) -> Route:
        """The top-1 edit of each row if its score is above theta, else the base."""
        return self.route_last(filled.last(self.layer))

    def route_last(self, h_BF: Tensor) -> Route:
        """As `route`, from the `down_proj` inputs at the last prompt tokens."""
        if len(self) == 0:
            return Route.base(len(h_BF), h_BF.device)
        score_BE, index_BE = self.score_last(h_BF).topk(min(2, len(self)), dim=1)
        chosen_BE = index_BE.masked_fill(score_BE <= self.theta, -1)
        runner_up_B = chosen_BE[:, 1] if len(self) > 1 else torch.full_like(index_BE[:, 0], -1)
        whole_B = torch.zeros_like(runner_up_B)
        return Route(chosen_BE[:, 0], score_BE[:, 0].float(), index_BE[:, 0], runner_up_B, whole_B)

    def score_last(self, h_BF: Tensor) -> Tensor:
        """As `score`, from the `down_proj` inputs at the last prompt tokens."""
        return torch.sigmoid(h_BF.to(self.weight_EF) @ self.weight_EF.T)


def initial_neuron(width: int, seed: int, dtype: torch.dtype) -> Tensor:
    """w_F, initialised as by `torch.nn.Linear(width, 1)`, from the seed of the edit."""
    bound = 1 / math.sqrt(width)
    generator = torch.Generator().manual_seed(seed)
    uniform_F = torch.rand(width, generator=generator, dtype=torch.float64)
    return ((2 * uniform_F - 1) * bound).to(dtype)
