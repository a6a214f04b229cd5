"""The gate: from the similarities of a prompt and an edit to one score, shared by all edits.

Suffixes: V similarities, S hidden units.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

_SPREAD = 3.0  # cosines differ by tenths; the hidden units want more


@dataclass(frozen=True)
class Gate:
    """score = sim . direct + out . gelu(3 sim . hidden + bias) + offset; larger is likelier.

    Trained gates give the log-odds, for classes of even weight, that the prompt asks for the
    edit's fact. Without hidden units it is a weighted sum.
    """

    direct_V: Tensor
    hidden_VS: Tensor
    bias_S: Tensor
    out_S: Tensor
    offset: Tensor

    @classmethod
    def mean(cls, num_views: int) -> "Gate":
        """The gate that takes the mean of the similarities: what is used before calibration."""
        none = torch.zeros(0)
        direct_V = torch.full((num_views,), 1 / num_views)
        return cls(direct_V, torch.zeros(num_views, 0), none, none, torch.zeros(()))

    @classmethod
    def drawn(cls, num_views: int, hidden: int, seed: int) -> "Gate":
        """A gate to start training from."""
        generator = torch.Generator().manual_seed(seed)
        hidden_VS = torch.randn(num_views, hidden, generator=generator) * num_views**-0.5
        out_S = torch.randn(hidden, generator=generator) * hidden**-0.5
        zero_V, zero_S = torch.zeros(num_views), torch.zeros(hidden)
        return cls(zero_V, hidden_VS, zero_S, out_S, torch.zeros(()))

    def __call__(self, sim_V: Tensor) -> Tensor:
        """The scores of any number of pairs; the last dimension of `sim_V` is V."""
        hidden_S = torch.nn.functional.gelu(_SPREAD * sim_V @ self.hidden_VS + self.bias_S)
        return sim_V @ self.direct_V + hidden_S @ self.out_S + self.offset

    def tensors(self) -> dict[str, Tensor]:
        """The gate as named tensors."""
        return {
            "direct": self.direct_V,
            "hidden": self.hidden_VS,
            "bias": self.bias_S,
            "out": self.out_S,
            "offset": self.offset,
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> "Gate":
        """The gate that `tensors` described."""
        return cls(*(tensors[name] for name in ("direct", "hidden", "bias", "out", "offset")))
