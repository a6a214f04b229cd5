"""Codebooks beside one `down_proj` of a frozen base: GRACE and HoReN.

Suffixes: E entries, B prompts, R routed ones, N queries, T and S positions, D output size of the
linear, F input size.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from scen.benchmark.editors.scen_methods import Edited, StepProgress, chunks
from scen.model.base import Base
from scen.model.batch import IGNORED, pad_edits, pad_prompts
from scen.model.decode import EditedModel
from scen.model.decoder import run_head
from scen.model.expert import Span, attach_layer, expert_loss
from scen.model.prefill import Prefill, Split, prefill, split_edits
from scen.model.route import Route
from scen.records import Edit

_ROWS = 32  # prompts per forward pass
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
    """GRACE (arXiv 2211.11031): the key of an edit is the input of `down_proj` at the last prompt
    token; where the input at a token lies within the key's radius, the value trained for the key
    replaces the linear's output.

    `radius` is the radius of a new key (epsilon), in units of the linear's input.
    """

    layer: int = 20
    radius: float = 1.0
    lr: float = 1.0
    steps: int = 100
    stop_loss: float = 0.02
    batch_size: int = 32
    seed: int = 0

    def edit(self, base: Base, edits: Sequence[Edit], progress: StepProgress) -> Edited:
        """Lay out the codebook edit by edit, then train its values in batches."""
        key_EF = read_inputs(base, self.layer, edits, Prefill.last)
        kept, radii = lay_out(key_EF, [edit.target for edit in edits], self.radius)
        value_ED = _train_values(base, self, [edits[i] for i in kept], progress)
        progress(len(edits) - len(kept), len(edits))
        radius_E = torch.tensor(radii, device=base.device)
        bank = GraceBank(key_EF[kept], value_ED, radius_E)
        neurons = GraceNeurons(self.layer, bank.key_EF, radius_E)
        model = EditedModel(base.model, self.layer, bank, neurons, base.pad_id, base.stop_ids)
        size = sum(t.nbytes for t in bank.tensors().values())
        return Edited((model,), size, experts=[edits[i].id for i in kept])


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


def read_inputs(
    base: Base, layer: int, edits: Sequence[Edit], read: Callable[[Prefill, int], Tensor]
) -> Tensor:
    """What `read` takes from the inputs of `down_proj` of each edit's prompt, float32."""
    encoded = [base.template.encode_prompt(edit.prompt) for edit in edits]
    parts = []
    for prompts in chunks(encoded, _ROWS):
        batch = pad_prompts(prompts, base.pad_id, base.device)
        parts.append(read(prefill(base.model, batch, layer, ()), layer).float())
    return torch.cat(parts)


class _Values(Protocol):
    """How the values of a codebook are trained."""

    layer: int
    lr: float
    steps: int
    stop_loss: float
    batch_size: int
    seed: int


def _train_values(
    base: Base, plan: Any, edits: Sequence[Edit], progress: StepProgress, *, added: bool = False
) -> Tensor:
    """value_ED: randomly initialised and trained until all losses of a batch are below `stop_loss`,
    for at most `steps`; each is the value with the lowest loss seen. Values replace the output of
    the linear at the last prompt token, or are added to it."""
    torch.manual_seed(plan.seed)
    values = []
    for part in chunks(edits, plan.batch_size):
        encoded = [base.template.encode_edit(edit) for edit in part]
        batch = pad_edits(encoded, base.pad_id, base.device)
        prompts = pad_prompts([e.prompt for e in encoded], base.pad_id, base.device)
        cache = prefill(base.model, prompts, plan.layer, ()).cache
        split = split_edits(base.model, plan.layer, batch, cache)
        offset_ED = split.y_BSD[:, 0].float() * added
        values.append(_fit_values(base, plan, split, batch.labels_BS, offset_ED))
        progress(len(part), len(edits))
    return torch.cat(values)


def _fit_values(
    base: Base, plan: _Values, split: Split, labels_BS: Tensor, offset_ED: Tensor
) -> Tensor:
    value_ED = torch.rand(len(offset_ED), offset_ED.shape[1]).to(base.device).requires_grad_()
    adam = torch.optim.Adam([value_ED], lr=plan.lr)
    best_ED, least_E = value_ED.detach().clone(), torch.full((len(offset_ED),), torch.inf)
    for _ in range(plan.steps):
        first_ED = (offset_ED + value_ED).to(split.y_BSD.dtype)
        y_BSD = torch.cat([first_ED[:, None], split.y_BSD[:, 1:]], 1)
        h_BSD = split.above(base.model, plan.layer, y_BSD)
        h_ND = h_BSD[:, -labels_BS.shape[1] :][labels_BS != IGNORED]
        loss_E = expert_loss(run_head(base.model, h_ND), labels_BS)
        better_E = loss_E.detach().cpu() < least_E
        best_ED[better_E] = value_ED.detach()[better_E]
        least_E = torch.minimum(least_E, loss_E.detach().cpu())
        if bool((least_E < plan.stop_loss).all()):
            break
        loss_E.sum().backward()
        adam.step()
        adam.zero_grad(set_to_none=True)
    return best_ED


@dataclass(frozen=True)
class HorenKeys:
    """Unit keys, matched after the query was pulled towards them (one damped step of a modern
    Hopfield network): q' = unit((1 - damping) q + damping unit(softmax(beta q K) K))."""

    key_EF: Tensor
    beta: float
    damping: float

    def match(self, query_NF: Tensor) -> Tensor:
        """cosine_NE of the refined queries with the keys."""
        unit_NF = functional.normalize(query_NF.float(), dim=1)
        pulled_NF = (self.beta * unit_NF @ self.key_EF.T).softmax(1) @ self.key_EF
        pulled_NF = functional.normalize(pulled_NF, dim=1)
        mixed_NF = (1 - self.damping) * unit_NF + self.damping * pulled_NF
        return functional.normalize(mixed_NF, dim=1) @ self.key_EF.T


@dataclass(frozen=True)
class HorenBank:
    """`value_ED`, added at the first position that is passed, which is the last prompt token."""

    value_ED: Tensor
    span: ClassVar[Span] = "last"

    def __len__(self) -> int:
        return len(self.value_ED)

    def apply(self, x_RTF: Tensor, y_RTD: Tensor, expert_R: Tensor) -> Tensor:
        """The base output plus the value at the first position."""
        first_R1D = y_RTD[:, :1] + self.value_ED[expert_R][:, None].to(y_RTD.dtype)
        return torch.cat([first_R1D, y_RTD[:, 1:]], 1)

    def tensors(self) -> dict[str, Tensor]:
        """`value`."""
        return {"value": self.value_ED}


@dataclass(frozen=True)
class HorenStepBank(HorenBank):
    """The bank while decoding: a value is added where the token itself matches the key."""

    keys: HorenKeys
    threshold: float

    def apply(self, x_RTF: Tensor, y_RTD: Tensor, expert_R: Tensor) -> Tensor:
        """The base output plus the value where the token matches."""
        cosine_NE = self.keys.match(x_RTF.flatten(0, 1))
        near_RT = (cosine_NE.max(1).values > self.threshold).view(x_RTF.shape[:2])
        added_R1D = self.value_ED[expert_R][:, None].to(y_RTD.dtype)
        return y_RTD + near_RT[..., None] * added_R1D


@dataclass(frozen=True)
class HorenModel(EditedModel):
    """An edited model whose bank acts differently on the prompt and on decoded tokens."""

    steps: HorenStepBank | None = None

    @property
    def linear(self) -> Any:
        """The edited linear; its context uses the bank for decoded tokens."""
        layer, steps = attach_layer(self.model, self.layer), self.steps
        assert steps is not None
        return SimpleNamespace(use=lambda _bank, route: layer.use(steps, route))


@dataclass(frozen=True)
class HorenNeurons:
    """Route each prompt to the key that its refined query matches best, if the cosine is above
    `threshold`. The query is the mean input over the last `share` of the user's own tokens."""

    layer: int
    keys: HorenKeys
    threshold: float
    share: float

    @property
    def layers(self) -> frozenset[int]:
        """The edited layer."""
        return frozenset({self.layer})

    def __len__(self) -> int:
        return len(self.keys.key_EF)

    def route(self, filled: Prefill) -> Route:
        """The best match of each row, or the base."""
        cosine_BE = self.keys.match(late_mean(filled, self.layer, self.share))
        return best_above(cosine_BE, torch.full_like(cosine_BE[0], self.threshold))


def late_mean(filled: Prefill, layer: int, share: float) -> Tensor:
    """x_BF: the input of `down_proj`, averaged over the last `share` of the user's own tokens."""
    own_BS = filled.batch.user_mask_BP[:, filled.num_known :]
    left_BS = own_BS.flip(1).cumsum(1).flip(1)  # own tokens from here to the end
    late_BS = own_BS & (left_BS <= (share * own_BS.sum(1, keepdim=True)).ceil())
    total_BF = (filled.inputs[layer].float() * late_BS[..., None]).sum(1)
    return total_BF / late_BS.sum(1, keepdim=True)


def best_above(score_BE: Tensor, least_E: Tensor) -> Route:
    """The route to the highest score of each row among those above `least_E`, or to the base."""
    score_B, nearest_B = score_BE.masked_fill(score_BE <= least_E, -torch.inf).max(1)
    expert_B = nearest_B.masked_fill(score_B == -torch.inf, -1)
    none_B = torch.full_like(expert_B, -1)
    best_B, top_B = score_BE.max(1)
    return Route(expert_B, best_B, top_B, none_B, torch.zeros_like(expert_B))


@dataclass(frozen=True)
class HorenEditor:
    """HoReN (arXiv 2605.08143): as GRACE, but keys and queries are means over the last `share` of
    the question on the unit sphere, queries are refined by a damped Hopfield step, and the value is
    added at the last prompt token. `depth` is the share of the layers below the edited one.

    An edit whose key matches that of an earlier edit with the same target shares its entry.
    """

    depth: float = 0.93
    threshold: float = 0.85
    share: float = 0.6
    beta: float = 20.0
    damping: float = 0.1
    lr: float = 1.0
    steps: int = 50
    stop_loss: float = 0.02
    batch_size: int = 32
    seed: int = 0

    def edit(self, base: Base, edits: Sequence[Edit], progress: StepProgress) -> Edited:
        """Lay out the codebook edit by edit, then train its values in batches."""
        layer = min(round(self.depth * base.num_layers), base.num_layers - 1)
        read = partial(late_mean, share=self.share)
        key_EF = functional.normalize(read_inputs(base, layer, edits, read), dim=1)
        kept = self._lay_out(key_EF, [edit.target for edit in edits])
        plan = GraceEditor(
            layer, 0.0, self.lr, self.steps, self.stop_loss, self.batch_size, self.seed
        )
        value_ED = _train_values(base, plan, [edits[i] for i in kept], progress, added=True)
        progress(len(edits) - len(kept), len(edits))
        keys = HorenKeys(key_EF[kept], self.beta, self.damping)
        model = HorenModel(
            base.model,
            layer,
            HorenBank(value_ED),
            HorenNeurons(layer, keys, self.threshold, self.share),
            base.pad_id,
            base.stop_ids,
            steps=HorenStepBank(value_ED, keys, self.threshold),
        )
        experts = [edits[i].id for i in kept]
        return Edited((model,), value_ED.nbytes + keys.key_EF.nbytes, experts, has_beams=False)

    def _lay_out(self, key_EF: Tensor, targets: Sequence[str]) -> list[int]:
        """The edits that get an entry of their own."""
        kept: list[int] = []
        for i, target in enumerate(targets):
            if kept:
                keys = HorenKeys(key_EF[kept], self.beta, self.damping)
                score, nearest = keys.match(key_EF[i : i + 1])[0].max(0)
                if float(score) > self.threshold and targets[kept[int(nearest)]] == target:
                    continue
            kept.append(i)
        return kept
