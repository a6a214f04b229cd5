"""The gate: one score for a prompt and an edit, by weights that all edits share.

Suffixes: V inputs (similarities, and what else is known), S hidden units.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import gelu

_SPREAD = 3.0  # cosines differ by tenths; the hidden units want more


@dataclass(frozen=True)
class Gate:
    """score = x . direct + out . h + offset, with h = gelu(3 x . hidden + bias); or, where there is
    a second layer, h = gelu(gelu(x . hidden + bias) . inner + inner_bias). Larger is likelier.

    Trained gates give the log-odds, for classes of even weight, that the prompt asks for the
    edit's fact. Without hidden units it is a weighted sum.
    """

    direct_V: Tensor
    hidden_VS: Tensor
    bias_S: Tensor
    out_S: Tensor
    offset: Tensor
    inner_SS: Tensor | None = None
    inner_bias_S: Tensor | None = None

    @classmethod
    def mean(cls, num_views: int) -> "Gate":
        """The gate of an uncalibrated router: the mean of the similarities."""
        none = torch.zeros(0)
        direct_V = torch.full((num_views,), 1 / num_views)
        return cls(direct_V, torch.zeros(num_views, 0), none, none, torch.zeros(()))

    @classmethod
    def initial(cls, num_views: int, hidden: int, seed: int, *, is_deep: bool = False) -> "Gate":
        """A gate to start training from; `is_deep`: with a second layer."""
        generator = torch.Generator().manual_seed(seed)
        hidden_VS = torch.randn(num_views, hidden, generator=generator) * num_views**-0.5
        out_S = torch.randn(hidden, generator=generator) * hidden**-0.5
        zero_V, zero_S = torch.zeros(num_views), torch.zeros(hidden)
        if not is_deep:
            return cls(zero_V, hidden_VS, zero_S, out_S, torch.zeros(()))
        inner_SS = torch.randn(hidden, hidden, generator=generator) * hidden**-0.5
        return cls(zero_V, hidden_VS, zero_S, out_S, torch.zeros(()), inner_SS, zero_S.clone())

    @classmethod
    def averaged(cls, gates: Sequence["Gate"]) -> "Gate":
        """The mean of the scores of several gates of one form, as one gate whose hidden units are
        those of all."""
        first, count = gates[0], len(gates)
        inner_SS, inner_bias_S = None, None
        if first.inner_SS is not None:
            inner_SS = torch.block_diag(*(g.inner_SS for g in gates if g.inner_SS is not None))
            inner_bias_S = torch.cat([g.inner_bias_S for g in gates if g.inner_bias_S is not None])
        return cls(
            torch.stack([g.direct_V for g in gates]).mean(0),
            torch.cat([g.hidden_VS for g in gates], 1),
            torch.cat([g.bias_S for g in gates]),
            torch.cat([g.out_S for g in gates]) / count,
            torch.stack([g.offset for g in gates]).mean(0),
            inner_SS,
            inner_bias_S,
        )

    def __call__(self, x_V: Tensor) -> Tensor:
        """The scores of any number of pairs; the last dimension of `x_V` is V."""
        if self.inner_SS is None or self.inner_bias_S is None:
            hidden_S = gelu(_SPREAD * x_V @ self.hidden_VS + self.bias_S)
        else:
            hidden_S = gelu(x_V @ self.hidden_VS + self.bias_S)
            hidden_S = gelu(hidden_S @ self.inner_SS + self.inner_bias_S)
        return x_V @ self.direct_V + hidden_S @ self.out_S + self.offset

    def tensors(self) -> dict[str, Tensor]:
        """The gate as named tensors."""
        named = {
            "direct": self.direct_V,
            "hidden": self.hidden_VS,
            "bias": self.bias_S,
            "out": self.out_S,
            "offset": self.offset,
            "inner": self.inner_SS,
            "inner_bias": self.inner_bias_S,
        }
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> "Gate":
        """The gate that `tensors` described."""
        names = ("direct", "hidden", "bias", "out", "offset", "inner", "inner_bias")
        return cls(*(tensors[name] for name in names if name in tensors))
