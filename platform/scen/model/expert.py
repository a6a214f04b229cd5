"""Expert banks, the linear layer that applies them, and the losses of SCEN."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from scen.model.batch import IGNORED
from scen.model.route import Route

Span = Literal["last", "all"]


class ExpertBank(Protocol):
    """Many experts of one kind.

    `span`: the positions on which an expert acts, from the last prompt token on (`last`) or every
    position of a routed request (`all`).
    """

    span: ClassVar[Span]

    def __len__(self) -> int: ...

    def apply(self, x_RTF: Tensor, y_RTD: Tensor, expert_R: Tensor) -> Tensor:
        """The edited output of the linear, from its input and the base output."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """The named tensors of the bank, experts along the first axis."""
        ...


@dataclass(frozen=True)
class LowRankBank:
    """Low-rank experts `up @ down`, added to the base output (method `scen-lr`).

    `down_ErF` and `up_EDr` are float32.
    """

    down_ErF: Tensor
    up_EDr: Tensor
    span: ClassVar[Span] = "last"

    def __len__(self) -> int:
        return len(self.down_ErF)

    def apply(self, x_RTF: Tensor, y_RTD: Tensor, expert_R: Tensor) -> Tensor:
        """Base output plus the expert's term; the product runs in the dtype of the experts."""
        down_RFr = self.down_ErF[expert_R].transpose(1, 2)
        up_RrD = self.up_EDr[expert_R].transpose(1, 2)
        delta_RTD = torch.bmm(torch.bmm(x_RTF.to(down_RFr.dtype), down_RFr), up_RrD)
        return y_RTD + delta_RTD.to(y_RTD.dtype)

    def tensors(self) -> dict[str, Tensor]:
        """`down` and `up`."""
        return {"down": self.down_ErF, "up": self.up_EDr}


@dataclass(frozen=True)
class FullBank:
    """Full-weight experts: tuned copies of the linear (method `scen`, arXiv 2404.02699).

    `weight_EDF` has the dtype it was trained in.
    """

    weight_EDF: Tensor
    span: ClassVar[Span] = "all"

    def __len__(self) -> int:
        return len(self.weight_EDF)

    def apply(self, x_RTF: Tensor, y_RTD: Tensor, expert_R: Tensor) -> Tensor:
        """The expert's output in place of the base output.

        Rows that share an expert share a product: gathering a full matrix per row costs more.
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
    """The bank with these tensors; the inverse of `tensors()`."""
    if "weight" in tensors:
        return FullBank(tensors["weight"])
    return LowRankBank(tensors["down"], tensors["up"])


def join_banks(banks: list[LowRankBank | FullBank]) -> LowRankBank | FullBank:
    """One bank of all experts, in order. All banks must be of the same kind and shape."""
    parts = [bank.tensors() for bank in banks]
    return build_bank({name: torch.cat([part[name] for part in parts]) for name in parts[0]})


@dataclass(frozen=True)
class _Active:
    layer: "EditedLinear"
    bank: ExpertBank
    route: Route


# A context variable, not an attribute: threads may share a layer, and no route outlives a call.
_ACTIVE: ContextVar[_Active | None] = ContextVar("scen_route", default=None)


class EditedLinear(nn.Module):
    """Wraps a linear; outside `use`, and for rows routed to the base, it acts exactly like it."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear

    @contextmanager
    def use(self, bank: ExpertBank, route: Route) -> Iterator[None]:
        """Within this block, row b of every batch uses expert `route.expert_B[b]` of the bank."""
        token = _ACTIVE.set(_Active(self, bank, route))
        try:
            yield
        finally:
            _ACTIVE.reset(token)

    def forward(self, x_BTF: Tensor) -> Tensor:
        """The base output, with routed rows replaced by the output of their expert."""
        y_BTD: Tensor = self.linear(x_BTF)
        active = _ACTIVE.get()
        if active is None or active.layer is not self or active.route.is_base:
            return y_BTD
        route = active.route
        rows_R = route.rows_R
        edited_RTD = active.bank.apply(x_BTF[rows_R], y_BTD[rows_R], route.expert_B[rows_R])
        return y_BTD.index_copy(0, rows_R, edited_RTD)


def attach_layer(model: Any, layer: int) -> EditedLinear:
    """Wrap `model.layers[layer].mlp.down_proj` in an EditedLinear, or return the existing one."""
    mlp = model.model.layers[layer].mlp
    if not isinstance(mlp.down_proj, EditedLinear):
        mlp.down_proj = EditedLinear(mlp.down_proj)
    attached: EditedLinear = mlp.down_proj
    return attached


def detach_layer(model: Any, layer: int) -> None:
    """Restore the original linear."""
    mlp = model.model.layers[layer].mlp
    if isinstance(mlp.down_proj, EditedLinear):
        mlp.down_proj = mlp.down_proj.linear


def expert_loss(logits_NV: Tensor, labels_BS: Tensor) -> Tensor:
    """loss_B: cross-entropy (nats) on target and end tokens, averaged within each row.

    `logits_NV` are the logits at the N positions whose label is not IGNORED, row by row.
    """
    real_BS = labels_BS != IGNORED
    dtype = torch.promote_types(logits_NV.dtype, torch.float32)
    nll_N = functional.cross_entropy(logits_NV.to(dtype), labels_BS[real_BS], reduction="none")
    nll_BS = torch.zeros(labels_BS.shape, dtype=dtype, device=nll_N.device)
    return nll_BS.masked_scatter(real_BS, nll_N).sum(1) / real_BS.sum(1)


def neuron_loss(score_pos: Tensor, score_N: Tensor, mask_N: Tensor | None = None) -> Tensor:
    """Activation, suppression and margin terms of one neuron, or of many along the first axis.

    With sigmoid scores s: exp(-s_pos) + mean_N(exp(s_neg) + 0.7) + mean_N(exp(s_neg) - s_pos
    + 0.3); without negatives, exp(-s_pos). The constants have no gradient and are kept for
    equality with the published loss. `mask_N` is True for real negatives.
    """
    real_N = torch.ones_like(score_N) if mask_N is None else mask_N.to(score_N.dtype)
    count = real_N.sum(-1)
    exp_N = score_N.exp()
    suppression = ((exp_N + 0.7) * real_N).sum(-1) / count.clamp(min=1)
    margin = ((exp_N - score_pos[..., None] + 0.3) * real_N).sum(-1) / count.clamp(min=1)
    return torch.exp(-score_pos) + suppression + margin
