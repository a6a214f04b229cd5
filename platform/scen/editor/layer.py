"""EditedLinear: the MLP linear that adds experts to the rows that are routed to one."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from scen.editor.expert import ExpertBank
from scen.editor.route import Route


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
