"""The stored form of compact keys: 8 bits, and a scale per view.

Suffixes: E edits, K places, C numbers of a compact key, H views per place.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from scen.routing.key_bank import quantise


@dataclass(frozen=True)
class Codes:
    """The compact keys of E edits: `int8_EKC`, and `scale_EKH` float32 per view."""

    int8_EKC: Tensor
    scale_EKH: Tensor

    @classmethod
    def of(cls, code_EKC: Tensor, widths: tuple[int, ...]) -> "Codes":
        """Each view in 8 bits; its largest number becomes 127."""
        rows, places = code_EKC.shape[:2]
        parts = [quantise(view.flatten(0, 1)) for view in code_EKC.split(widths, -1)]
        int8_EKC = torch.cat([q.view(rows, places, q.shape[-1]) for q, _ in parts], -1)
        return cls(int8_EKC, torch.stack([s.view(rows, places) for _, s in parts], -1))

    def __len__(self) -> int:
        """E."""
        return len(self.scale_EKH)

    def take(self, index: Tensor, widths: tuple[int, ...]) -> Tensor:
        """code [..., K, C] float32 of the edits at these indices."""
        scale = self.scale_EKH[index].repeat_interleave(torch.tensor(widths), -1)
        return self.int8_EKC[index] * scale

    @property
    def bytes_per_edit(self) -> int:
        """Of the compact keys of one edit."""
        return self.int8_EKC[0].numel() + 4 * self.scale_EKH[0].numel()
