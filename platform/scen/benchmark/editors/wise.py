"""WISE (arXiv 2405.14768): edits are trained into side memories, copies of one `down_proj`, and a
prompt that activates none of them is answered by the base.

The activation of a memory is the norm of the change that it makes to the output of the linear,
averaged over the user's own tokens. Suffixes: M memories, B prompts, S positions, N tokens, D
output size of the linear, F input size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from scen.benchmark.editors.codebooks import best_above
from scen.benchmark.editors.scen_methods import Edited, StepProgress, chunks
from scen.data.read import read_prompts
from scen.model.base import Base
from scen.model.batch import IGNORED, pad_edits, pad_prompts
from scen.model.decode import EditedModel
from scen.model.decoder import PrefixKV, capture_inputs, run_below, run_head, span_after
from scen.model.expert import FullBank, expert_loss
from scen.model.prefill import Prefill, split_edits
from scen.model.route import Route
from scen.records import Edit
from scen.samples import sample_path

_NEUTRAL = sample_path("nq_neutral.jsonl")
_UNRELATED = 100  # neutral questions, one of which contrasts each edit
_ROWS = 32  # prompts per forward pass


@dataclass(frozen=True)
class WiseNeurons:
    """Route each prompt to the memory with the largest activation among those above their
    `threshold_M`, or to the base. `change_MDF` are the memories minus the base's weights."""

    layer: int
    change_MDF: Tensor
    threshold_M: Tensor

    @property
    def layers(self) -> frozenset[int]:
        """The edited layer."""
        return frozenset({self.layer})

    def __len__(self) -> int:
        return len(self.change_MDF)

    def route(self, filled: Prefill) -> Route:
        """The memory of each row, or the base."""
        x_BSF = filled.inputs[self.layer].float()
        own_BS = filled.batch.user_mask_BP[:, filled.num_known :].float()
        activation_BM = torch.stack(
            [
                ((x_BSF @ change_DF.T).norm(dim=-1) * own_BS).sum(1) / own_BS.sum(1)
                for change_DF in self.change_MDF
            ],
            dim=1,
        )
        return best_above(activation_BM, self.threshold_M)


@dataclass(frozen=True)
class _Shard:
    """A side memory (minus the base's weights) and the smallest activation of its edits."""

    change_DF: Tensor
    least: float


@dataclass(frozen=True)
class WiseEditor:
    """Edits are trained one after the other (SGD, `lr`, at most `steps`) on the target and on
    margins of the activation: above `inside` for the edit, below `outside` for an unrelated
    question, and `margin` apart.

    `depth` is the share of the layers below the edited one. A shard takes `shard_size` edits and
    changes a random share `density` of the weights, each by at most `distance`; `merged` shards
    become one memory by TIES (arXiv 2306.01708), which keeps the share `kept` of the largest
    changes. A memory is used above `threshold` times the smallest activation of its edits.
    """

    depth: float = 0.84
    lr: float = 1.0
    steps: int = 70
    stop_loss: float = 0.02
    outside: float = 5.0
    inside: float = 20.0
    margin: float = 10.0
    density: float = 0.2
    distance: float = 1.0
    shard_size: int = 500
    merged: int = 2
    kept: float = 0.53
    threshold: float = 0.88
    seed: int = 0

    def edit(self, base: Base, edits: Sequence[Edit], progress: StepProgress) -> Edited:
        """Train the side memories, and merge their shards."""
        layer = min(round(self.depth * base.num_layers), base.num_layers - 1)
        linear = base.model.model.layers[layer].mlp.down_proj
        weight_DF = getattr(linear, "linear", linear).weight.detach().float()
        unrelated = _own_inputs(base, layer, read_prompts(_NEUTRAL, _UNRELATED))
        generator = torch.Generator().manual_seed(self.seed)
        shards: list[_Shard] = []
        memories: list[_Shard] = []
        for begin in range(0, len(edits), self.shard_size):
            part = edits[begin : begin + self.shard_size]
            mask_DF = torch.rand(weight_DF.shape, generator=generator) < self.density
            change_DF = torch.zeros_like(weight_DF)
            least = torch.inf
            for place, edit in enumerate(part):
                contrast_NF = unrelated[(begin + place) % len(unrelated)]
                activation = self._train(
                    base, layer, edit, change_DF, mask_DF.to(base.device), contrast_NF
                )
                least = min(least, activation)
                progress(1, len(edits))
            shards.append(_Shard(change_DF, least))
            if len(shards) == self.merged:
                changes = [shard.change_DF for shard in shards]
                least = min(shard.least for shard in shards)
                memories.append(_Shard(merge_ties(changes, self.kept), least))
                shards = []
        return self._edited(base, layer, weight_DF, [*memories, *shards])

    def _edited(
        self, base: Base, layer: int, weight_DF: Tensor, memories: Sequence[_Shard]
    ) -> Edited:
        change_MDF = torch.stack([memory.change_DF for memory in memories])
        least_M = torch.tensor([memory.least for memory in memories], device=base.device)
        neurons = WiseNeurons(layer, change_MDF, self.threshold * least_M)
        bank = FullBank(weight_DF + change_MDF)
        model = EditedModel(base.model, layer, bank, neurons, base.pad_id, base.stop_ids)
        return Edited((model,), bank.weight_EDF.nbytes + least_M.nbytes)

    def _train(
        self,
        base: Base,
        layer: int,
        edit: Edit,
        change_DF: Tensor,
        mask_DF: Tensor,
        contrast_NF: Tensor,
    ) -> float:
        """Train `change_DF` in place on one edit; returns the edit's activation (at the last step
        of training)."""
        batch = pad_edits([base.template.encode_edit(edit)], base.pad_id, base.device)
        split = split_edits(base.model, layer, batch, None)
        own_NF = _own_inputs(base, layer, [edit.prompt])[0]
        # The rest of the output does not depend on the memory.
        x_BSF, y_BSD = split.x_BSF.float(), split.y_BSD.float()
        change_DF.requires_grad_()
        activation = torch.zeros(())
        for _ in range(self.steps):
            y_edited_BSD = (y_BSD + x_BSF @ change_DF.T).to(split.y_BSD.dtype)
            h_BSD = split.above(base.model, layer, y_edited_BSD)
            split.span.prefix.fresh.clear()  # drop the state computed in this pass
            h_ND = h_BSD[:, -batch.labels_BS.shape[1] :][batch.labels_BS != IGNORED]
            loss = expert_loss(run_head(base.model, h_ND), batch.labels_BS).sum()
            activation = (own_NF @ change_DF.T).norm(dim=-1).mean()
            margins = self.margins(activation, (contrast_NF @ change_DF.T).norm(dim=-1).mean())
            if float(loss.detach()) < self.stop_loss and float(margins.detach()) == 0:
                break
            [slope_DF] = torch.autograd.grad(loss + margins, [change_DF])
            with torch.no_grad():
                change_DF -= self.lr * slope_DF * mask_DF
                change_DF.clamp_(-self.distance, self.distance)
        change_DF.requires_grad_(False)
        return float(activation.detach())

    def margins(self, inside: Tensor, outside: Tensor) -> Tensor:
        """The loss on the activations of an edit's prompt and of an unrelated one."""
        return (
            functional.relu(outside - self.outside)
            + functional.relu(self.inside - inside)
            + functional.relu(outside - inside + self.margin)
        )


def merge_ties(changes: Sequence[Tensor], kept: float) -> Tensor:
    """One change from several: of the largest magnitudes of each, a share `kept`, the mean, weight
    by weight, of those with the sign of their sum."""
    trimmed = []
    for change in changes:
        count = max(1, round(kept * change.numel()))
        least = change.abs().flatten().kthvalue(change.numel() - count + 1).values
        trimmed.append(torch.where(change.abs() >= least, change, 0))
    change_M = torch.stack(trimmed)
    agrees_M = change_M.sign() == change_M.sum(0).sign()
    agrees_M &= change_M != 0
    return (change_M * agrees_M).sum(0) / agrees_M.sum(0).clamp_min(1)


@torch.no_grad()
def _own_inputs(base: Base, layer: int, prompts: Sequence[str]) -> list[Tensor]:
    """x_NF of each prompt: the inputs of `down_proj` at the user's own tokens, float32."""
    rows = []
    for part in chunks([base.template.encode_prompt(prompt) for prompt in prompts], _ROWS):
        batch = pad_prompts(part, base.pad_id, base.device)
        span = span_after(batch.mask_BP, batch.positions_BP, PrefixKV({}), 0)
        with capture_inputs(base.model, [layer]) as inputs:
            run_below(base.model, layer + 1, batch.ids_BP, span)
        x_BSF = inputs[layer].float()
        rows += [x[own] for x, own in zip(x_BSF, batch.user_mask_BP, strict=True)]
    return rows
