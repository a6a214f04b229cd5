"""Route: which expert, if any, each row of a batch uses. A value that is passed along."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Route:
    """`expert_B` int64 (index into the bank, -1 = base), `score_B` float32 (best score seen),
    `nearest_B` int64 (the best edit, chosen or not; -1 where the bank is empty), `rival_B` int64
    (the second best, where it would be chosen if the best were not there; else -1), `span_B` int64
    (the part of the message that the best edit is nearest to; 0: the whole)."""

    expert_B: Tensor
    score_B: Tensor
    nearest_B: Tensor
    rival_B: Tensor
    span_B: Tensor

    @classmethod
    def base(cls, rows: int, device: torch.device | str = "cpu") -> "Route":
        """The route of a batch in which nothing is edited."""
        none_B = torch.full((rows,), -1, device=device)
        whole_B = torch.zeros_like(none_B)
        return cls(none_B, torch.zeros(rows, device=device), none_B, none_B, whole_B)

    @classmethod
    def fixed(cls, experts: list[int], device: torch.device | str = "cpu") -> "Route":
        """A route that was decided elsewhere, such as each edit to its own expert."""
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
        """True where no row uses an expert."""
        return not bool((self.expert_B >= 0).any())

    def take(self, rows: Tensor) -> "Route":
        """The route of these rows."""
        columns = (self.expert_B, self.score_B, self.nearest_B, self.rival_B, self.span_B)
        return Route(*(column[rows] for column in columns))
