"""Indexing neurons: what decides, from one pass of the base over a prompt, which expert speaks."""

import math
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from scen.editor.prefill import Prefill
from scen.editor.route import Route
from scen.editor.whitening import Whitening

KeyKind = Literal["mean", "last"]


@dataclass(frozen=True)
class KeyPlace:
    """Where a key is read: the `down_proj` input of a layer, at the last prompt token (`last`)
    or averaged over the user's own words (`mean`)."""

    layer: int
    kind: KeyKind


class NeuronBank(Protocol):
    """The neurons of many edits. `layers` are those whose `down_proj` inputs routing reads."""

    @property
    def layers(self) -> frozenset[int]: ...

    def __len__(self) -> int: ...

    def route(self, filled: Prefill) -> Route:
        """Each row's expert, or the base."""
        ...


@dataclass(frozen=True)
class KeyNeurons:
    """Whitened keys of E edits at K places; a prompt goes to the edit that it resembles most.

    The score is the mean over places of the cosine between whitened keys (-1 .. 1); an edit speaks
    above `threshold`. `key_EKF` is stored raw, so that the whitening can be renewed.
    """

    places: tuple[KeyPlace, ...]
    key_EKF: Tensor
    whitening: Whitening
    threshold: float
    white_EKF: Tensor

    @classmethod
    def build(
        cls, places: tuple[KeyPlace, ...], key_EKF: Tensor, whitening: Whitening, threshold: float
    ) -> "KeyNeurons":
        """The bank of these keys."""
        return cls(places, key_EKF, whitening, threshold, whitening(key_EKF))

    @property
    def layers(self) -> frozenset[int]:
        """The layers whose keys are read."""
        return frozenset(place.layer for place in self.places)

    def __len__(self) -> int:
        return len(self.key_EKF)

    def score(self, key_BKF: Tensor) -> Tensor:
        """score_BE: how much each prompt resembles each edit."""
        white_BKF = self.whitening(key_BKF)
        return white_BKF.flatten(1) @ self.white_EKF.flatten(1).T / len(self.places)

    def route(self, filled: Prefill) -> Route:
        """The most similar edit of each row, where it is similar enough."""
        if len(self) == 0:
            return Route.base(len(filled.batch), filled.logits_BV.device)
        best = self.score(read_keys(filled, self.places)).max(1)
        expert_B = best.indices.masked_fill(best.values <= self.threshold, -1)
        return Route(expert_B, best.values, best.indices)


@dataclass(frozen=True)
class SigmoidNeurons:
    """One vector per edit over the `down_proj` input at the last prompt token (arXiv 2404.02699).

    The score is sigmoid(w . h); the best edit speaks above `theta`. `weight_EF` float.
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

    def route(self, filled: Prefill) -> Route:
        """The edit with the largest score of each row, where it is above theta."""
        if len(self) == 0:
            return Route.base(len(filled.batch), filled.logits_BV.device)
        h_BF = filled.last(self.layer).to(self.weight_EF.dtype)
        best = torch.sigmoid(h_BF @ self.weight_EF.T).max(1)
        expert_B = best.indices.masked_fill(best.values <= self.theta, -1)
        return Route(expert_B, best.values.float(), best.indices)


def read_keys(filled: Prefill, places: tuple[KeyPlace, ...]) -> Tensor:
    """key_BKF float32: the keys of each prompt of a batch."""
    read = {"mean": filled.mean, "last": filled.last}
    return torch.stack([read[place.kind](place.layer).float() for place in places], 1)


def initial_neuron(width: int, seed: int, dtype: torch.dtype) -> Tensor:
    """w_F as `torch.nn.Linear(width, 1)` draws it, from the edit's own seed."""
    bound = 1 / math.sqrt(width)
    draw = torch.rand(width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return ((2 * draw - 1) * bound).to(dtype)
