"""GRACE (arXiv 2211.11031): a codebook of hidden states at one layer.

The key of an edit is the input of `down_proj` at the last prompt token; where the input at a token
lies within the key's radius, the value trained for the key replaces the linear's output.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from scen.benchmark.editors.scen_methods import Edited, StepProgress
from scen.model.base import Base
from scen.model.batch import IGNORED, pad_edits, pad_prompts
from scen.model.decode import EditedModel
from scen.model.decoder import run_head
from scen.model.expert import Span, expert_loss
from scen.model.prefill import Prefill, prefill, split_edits
from scen.model.route import Route
from scen.records import Edit, EncodedEdit

_SPLIT_GAP = 1e-5


@dataclass(frozen=True)
class GraceBank:
    """`value_ED`, used where the input of the linear is within `radius_E` of `key_EF`."""

    key_EF: Tensor
    value_ED: Tensor
    radius_E: Tensor
    span: ClassVar[Span] = "last"

    def __len__(self) -> int:
        return len(self.key_EF)

    def apply(self, x_RTF: Tensor, y_RTD: Tensor, expert_R: Tensor) -> Tensor:
        """The value at the positions near the key, the base's output at the others."""
        away_RT = (x_RTF.float() - self.key_EF[expert_R][:, None]).norm(dim=-1)
        near_RT1 = (away_RT <= self.radius_E[expert_R][:, None])[..., None]
        return torch.where(near_RT1, self.value_ED[expert_R][:, None].to(y_RTD.dtype), y_RTD)

    def tensors(self) -> dict[str, Tensor]:
        """`key`, `value` and `radius`."""
        return {"key": self.key_EF, "value": self.value_ED, "radius": self.radius_E}


@dataclass(frozen=True)
class GraceNeurons:
    """Route each prompt to the nearest key if it is within that key's radius; scores are negative
    distances."""

    layer: int
    key_EF: Tensor
    radius_E: Tensor

    @property
    def layers(self) -> frozenset[int]:
        """The edited layer."""
        return frozenset({self.layer})

    def __len__(self) -> int:
        return len(self.key_EF)

    def route(self, filled: Prefill) -> Route:
        """The nearest key of each row, or the base."""
        away_BE = torch.cdist(filled.last(self.layer).float(), self.key_EF)
        away_B, nearest_B = away_BE.min(1)
        expert_B = nearest_B.masked_fill(away_B > self.radius_E[nearest_B], -1)
        none_B = torch.full_like(expert_B, -1)
        return Route(expert_B, -away_B, nearest_B, none_B, torch.zeros_like(expert_B))


@dataclass(frozen=True)
class GraceEditor:
    """`radius` is the radius of a new key (epsilon), in units of the linear's input."""

    layer: int = 20
    radius: float = 1.0
    lr: float = 1.0
    steps: int = 100
    stop_loss: float = 0.02
    batch_size: int = 32
    seed: int = 0

    def edit(self, base: Base, edits: Sequence[Edit], progress: StepProgress) -> Edited:
        """Lay out the codebook edit by edit, then train its values in batches."""
        encoded = [base.template.encode_edit(edit) for edit in edits]
        key_EF = self._keys(base, encoded)
        kept, radii = lay_out(key_EF, [edit.target for edit in edits], self.radius)
        torch.manual_seed(self.seed)
        values = []
        for begin in range(0, len(kept), self.batch_size):
            batch = kept[begin : begin + self.batch_size]
            values.append(self._values(base, [encoded[i] for i in batch]))
            progress(len(batch), len(edits))
        progress(len(edits) - len(kept), len(edits))
        radius_E = torch.tensor(radii, device=base.device)
        bank = GraceBank(key_EF[kept], torch.cat(values), radius_E)
        neurons = GraceNeurons(self.layer, bank.key_EF, radius_E)
        model = EditedModel(base.model, self.layer, bank, neurons, base.pad_id, base.stop_ids)
        size = sum(t.nbytes for t in bank.tensors().values())
        return Edited((model,), size, experts=[edits[i].id for i in kept])

    def _keys(self, base: Base, encoded: Sequence[EncodedEdit]) -> Tensor:
        parts = []
        for begin in range(0, len(encoded), self.batch_size):
            prompts = [e.prompt for e in encoded[begin : begin + self.batch_size]]
            batch = pad_prompts(prompts, base.pad_id, base.device)
            parts.append(prefill(base.model, batch, self.layer, ()).last(self.layer).float())
        return torch.cat(parts)

    def _values(self, base: Base, edits: Sequence[EncodedEdit]) -> Tensor:
        """value_ED: randomly initialised and trained until all losses are below `stop_loss`, for at
        most `steps`; each is the value with the lowest loss seen."""
        batch = pad_edits(edits, base.pad_id, base.device)
        prompts = pad_prompts([e.prompt for e in edits], base.pad_id, base.device)
        cache = prefill(base.model, prompts, self.layer, ()).cache
        split = split_edits(base.model, self.layer, batch, cache)
        initial_ED = torch.rand(len(edits), split.y_BSD.shape[-1]).to(base.device)
        value_ED = initial_ED.requires_grad_()
        adam = torch.optim.Adam([value_ED], lr=self.lr)
        best_ED, least_E = value_ED.detach().clone(), torch.full((len(edits),), torch.inf)
        for _ in range(self.steps):
            y_BSD = torch.cat([value_ED[:, None].to(split.y_BSD.dtype), split.y_BSD[:, 1:]], 1)
            h_BSD = split.above(base.model, self.layer, y_BSD)
            h_ND = h_BSD[:, -batch.labels_BS.shape[1] :][batch.labels_BS != IGNORED]
            loss_E = expert_loss(run_head(base.model, h_ND), batch.labels_BS)
            better_E = loss_E.detach().cpu() < least_E
            best_ED[better_E] = value_ED.detach()[better_E]
            least_E = torch.minimum(least_E, loss_E.detach().cpu())
            if bool((least_E < self.stop_loss).all()):
                break
            loss_E.sum().backward()
            adam.step()
            adam.zero_grad(set_to_none=True)
        return best_ED


def lay_out(key_EF: Tensor, targets: Sequence[str], radius: float) -> tuple[list[int], list[float]]:
    """The edits that get a key of their own, and the radii of the keys.

    An edit far from all keys gets a key with the initial radius. If the nearest key has the same
    target, its radius grows to include the edit; if it has another target, the edit gets a key and
    both radii are about half the distance.
    """
    kept: list[int] = []
    radii: list[float] = []
    for i, target in enumerate(targets):
        if kept:
            away_K = (key_EF[kept] - key_EF[i]).norm(dim=1)
            nearest = int(away_K.argmin())
            away = float(away_K[nearest])
            if away <= radius + radii[nearest]:
                if targets[kept[nearest]] == target:
                    radii[nearest] = max(radii[nearest], away)
                    continue
                radii[nearest] = away / 2 - _SPLIT_GAP
                kept.append(i)
                radii.append(away / 2 - _SPLIT_GAP)
                continue
        kept.append(i)
        radii.append(radius)
    return kept, radii
