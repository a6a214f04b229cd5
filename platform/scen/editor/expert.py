"""Banks of experts: what is added to, or put in place of, one MLP linear."""

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

Span = Literal["last", "all"]


class ExpertBank(Protocol):
    """Many experts of one kind.

    `span` says from where on an expert acts: from the last prompt token (`last`), or on every
    position of a routed request (`all`).
    """

    span: ClassVar[Span]

    def __len__(self) -> int: ...

    def apply(self, x_RTF: Tensor, y_RTD: Tensor, expert_R: Tensor) -> Tensor:
        """The edited output of the linear, from its input and its base output."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """The bank as named tensors, experts along the first axis."""
        ...


@dataclass(frozen=True)
class LowRankBank:
    """Experts `up @ down` of a small rank r, added to the base output (method `scen-lr`).

    `down_ErF` and `up_EDr`, both float32.
    """

    down_ErF: Tensor
    up_EDr: Tensor
    span: ClassVar[Span] = "last"

    def __len__(self) -> int:
        return len(self.down_ErF)

    def apply(self, x_RTF: Tensor, y_RTD: Tensor, expert_R: Tensor) -> Tensor:
        """Base output plus the expert's term; the product runs in the experts' own precision."""
        down_RFr = self.down_ErF[expert_R].transpose(1, 2)
        up_RrD = self.up_EDr[expert_R].transpose(1, 2)
        delta_RTD = torch.bmm(torch.bmm(x_RTF.to(down_RFr.dtype), down_RFr), up_RrD)
        return y_RTD + delta_RTD.to(y_RTD.dtype)

    def tensors(self) -> dict[str, Tensor]:
        """`down` and `up`."""
        return {"down": self.down_ErF, "up": self.up_EDr}


@dataclass(frozen=True)
class FullBank:
    """Experts that are whole tuned copies of the linear (method `scen`, arXiv 2404.02699).

    `weight_EDF` in the precision it was trained in.
    """

    weight_EDF: Tensor
    span: ClassVar[Span] = "all"

    def __len__(self) -> int:
        return len(self.weight_EDF)

    def apply(self, x_RTF: Tensor, y_RTD: Tensor, expert_R: Tensor) -> Tensor:
        """The expert's output in place of the base's.

        Rows that share an expert share a product: gathering whole matrices per row costs more.
        """
        out_RTD = torch.empty_like(y_RTD)
        for expert in sorted(set(expert_R.tolist())):
            rows = (expert_R == expert).nonzero().squeeze(1)
            weight_DF = self.weight_EDF[expert]
            out_RTD[rows] = (x_RTF[rows].to(weight_DF.dtype) @ weight_DF.T).to(y_RTD.dtype)
        return out_RTD

    def tensors(self) -> dict[str, Tensor]:
        """`weight`."""
        return {"weight": self.weight_EDF}


def build_bank(tensors: dict[str, Tensor]) -> LowRankBank | FullBank:
    """The bank that `tensors()` described."""
    if "weight" in tensors:
        return FullBank(tensors["weight"])
    return LowRankBank(tensors["down"], tensors["up"])


def join_banks(banks: list[LowRankBank | FullBank]) -> LowRankBank | FullBank:
    """One bank of all experts, in order. All must be of one kind and size."""
    parts = [bank.tensors() for bank in banks]
    return build_bank({name: torch.cat([part[name] for part in parts]) for name in parts[0]})
