"""Experts: banks of them, the linear that applies them, and the losses of SCEN."""

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


@dataclass(frozen=True)
class _Use:
    layer: "EditedLinear"
    bank: ExpertBank
    route: Route


# A context variable, not an attribute: two threads may use one layer, and nothing outlives a call.
_IN_USE: ContextVar[_Use | None] = ContextVar("scen_route", default=None)


class EditedLinear(nn.Module):
    """Wraps a linear. Outside `use`, and for rows whose route is the base, it *is* that linear."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear

    @contextmanager
    def use(self, bank: ExpertBank, route: Route) -> Iterator[None]:
        """Within this block, row b of every batch uses expert `route.expert_B[b]` of the bank."""
        token = _IN_USE.set(_Use(self, bank, route))
        try:
            yield
        finally:
            _IN_USE.reset(token)

    def forward(self, x_BTF: Tensor) -> Tensor:
        """The base output; routed rows are replaced by their expert's."""
        y_BTD: Tensor = self.linear(x_BTF)
        use = _IN_USE.get()
        if use is None or use.layer is not self or use.route.is_base:
            return y_BTD
        rows_R = use.route.rows_R
        edited_RTD = use.bank.apply(x_BTF[rows_R], y_BTD[rows_R], use.route.expert_B[rows_R])
        return y_BTD.index_copy(0, rows_R, edited_RTD)


def attach_layer(model: Any, layer: int) -> EditedLinear:
    """Put an EditedLinear around `model.layers[layer].mlp.down_proj`, or return the one there."""
    mlp = model.model.layers[layer].mlp
    if not isinstance(mlp.down_proj, EditedLinear):
        mlp.down_proj = EditedLinear(mlp.down_proj)
    attached: EditedLinear = mlp.down_proj
    return attached


def detach_layer(model: Any, layer: int) -> None:
    """Put the base's own linear back."""
    mlp = model.model.layers[layer].mlp
    if isinstance(mlp.down_proj, EditedLinear):
        mlp.down_proj = mlp.down_proj.linear


def expert_loss(logits_NV: Tensor, labels_BS: Tensor) -> Tensor:
    """loss_B: cross-entropy (nats) on target and end tokens, mean within a row.

    `logits_NV` are those of the N positions whose label is not IGNORED, row by row.
    """
    real_BS = labels_BS != IGNORED
    kind = torch.promote_types(logits_NV.dtype, torch.float32)
    nll_N = functional.cross_entropy(logits_NV.to(kind), labels_BS[real_BS], reduction="none")
    nll_BS = torch.zeros(labels_BS.shape, dtype=kind, device=nll_N.device)
    return nll_BS.masked_scatter(real_BS, nll_N).sum(1) / real_BS.sum(1)


def neuron_loss(score_pos: Tensor, score_N: Tensor, mask_N: Tensor | None = None) -> Tensor:
    """Activation, suppression and margin terms of one neuron, or of many along a first axis.

    With s the sigmoid scores: exp(-s_pos) + mean_N(exp(s_neg) + 0.7)
    + mean_N(exp(s_neg) - s_pos + 0.3); without negatives exp(-s_pos). The constants have no
    gradient; they are kept because this is the reference. `mask_N` marks real negatives.
    """
    real_N = torch.ones_like(score_N) if mask_N is None else mask_N.to(score_N.dtype)
    count = real_N.sum(-1)
    grown_N = score_N.exp()
    disable = ((grown_N + 0.7) * real_N).sum(-1) / count.clamp(min=1)
    margin = ((grown_N - score_pos[..., None] + 0.3) * real_N).sum(-1) / count.clamp(min=1)
    return torch.exp(-score_pos) + disable + margin
