"""Keys: what routing reads of a prompt, from one pass of the base."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from scen.editor.prefill import Prefill

KeyKind = Literal["mean", "last"]


@dataclass(frozen=True)
class KeyPlace:
    """Where a key is read: the `down_proj` input of a layer, at the last prompt token (`last`)
    or averaged over the user's own words (`mean`)."""

    layer: int
    kind: KeyKind

    @property
    def name(self) -> str:
        """Such as mean@3."""
        return f"{self.kind}@{self.layer}"


def read_keys(filled: Prefill, places: tuple[KeyPlace, ...]) -> Tensor:
    """key_BKF float32: the keys of each prompt of a batch."""
    read = {"mean": filled.mean, "last": filled.last}
    return torch.stack([read[place.kind](place.layer).float() for place in places], 1)
