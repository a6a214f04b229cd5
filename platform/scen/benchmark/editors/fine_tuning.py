"""Changes of the weights from gradients: LoRA (peft) and FT-L train on all edits together,
UltraEdit solves for one update per turn.

Suffixes: N tokens, S positions, I and O input and output size of a linear, X of both.
"""

import copy
import math
import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from scen.benchmark.editors.in_context import plain_model
from scen.benchmark.editors.scen_methods import Edited, StepProgress, chunks
from scen.model.base import Base
from scen.model.batch import IGNORED, TrainBatch, pad_edits
from scen.model.decode import EditedModel
from scen.model.decoder import run_head, run_lm_head
from scen.model.expert import FullBank, expert_loss
from scen.model.prefill import Prefill, Split, split_edits
from scen.model.route import Route
from scen.records import Edit, EncodedEdit


@dataclass(frozen=True)
class LoraEditor:
    """LoRA (arXiv 2106.09685) with peft: adapters on all linears, trained jointly on all edits.

    AdamW, batches in a new order each epoch, loss on target and end token.
    """

    rank: int = 8
    lr: float = 1e-3
    epochs: int = 20
    batch_size: int = 16
    seed: int = 0

    def edit(self, base: Base, edits: Sequence[Edit], progress: StepProgress) -> Edited:
        """Train adapters on a copy of the base."""
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(self.seed)
        settings = LoraConfig(
            r=self.rank, lora_alpha=2 * self.rank, target_modules="all-linear", lora_dropout=0.0
        )
        tuned: Any = get_peft_model(copy.deepcopy(base.model), settings)
        weights = [p for p in tuned.parameters() if p.requires_grad]
        adam = torch.optim.AdamW(weights, lr=self.lr)
        tuned.train()
        for batch in self._batches(base, edits):
            train = pad_edits(batch, base.pad_id, base.device)
            logits_BTV = tuned(
                input_ids=train.ids_BT,
                attention_mask=train.mask_BT.long(),
                position_ids=train.positions_BT,
            ).logits[:, train.prompt_length - 1 :]
            _step(adam, logits_BTV[train.labels_BS != IGNORED], train.labels_BS)
            progress(len(batch), self.epochs * len(edits))
        tuned.eval()
        model = tuned.get_base_model().requires_grad_(False)
        return Edited((plain_model(base, model),), sum(p.nbytes for p in weights))

    def _batches(self, base: Base, edits: Sequence[Edit]) -> Iterator[list[EncodedEdit]]:
        """All edits once per epoch, each time in another order."""
        encoded = [base.template.encode_edit(edit) for edit in edits]
        rng = random.Random(self.seed)
        for _ in range(self.epochs):
            rng.shuffle(encoded)
            for begin in range(0, len(encoded), self.batch_size):
                yield encoded[begin : begin + self.batch_size]


@dataclass(frozen=True)
class FtlEditor:
    """FT-L: `down_proj` of one layer trained jointly on all edits, each weight within `distance` of
    the base's (constrained fine-tuning, arXiv 2012.00363, as in ROME's code).

    Batches group edits of similar length; the layers below are run only once per batch.
    """

    layer: int = 20
    lr: float = 1e-4
    epochs: int = 20
    distance: float = 1e-2
    batch_size: int = 32
    seed: int = 0

    def edit(self, base: Base, edits: Sequence[Edit], progress: StepProgress) -> Edited:
        """Train a copy of the matrix, which then replaces the base's for all prompts."""
        linear = base.model.model.layers[self.layer].mlp.down_proj
        before_DF = getattr(linear, "linear", linear).weight.detach().float()
        weight_DF = before_DF.clone().requires_grad_()
        adam = torch.optim.Adam([weight_DF], lr=self.lr)
        for train, split in self._passes(base, edits):
            y_BSD = (split.x_BSF.float() @ weight_DF.T).to(split.y_BSD.dtype)
            h_BSD = split.above(base.model, self.layer, y_BSD)
            h_ND = h_BSD[:, -train.labels_BS.shape[1] :][train.labels_BS != IGNORED]
            _step(adam, run_head(base.model, h_ND), train.labels_BS)
            with torch.no_grad():
                weight_DF.clamp_(before_DF - self.distance, before_DF + self.distance)
            split.span.prefix.fresh.clear()  # drop the state computed in this pass
            progress(len(train.labels_BS), self.epochs * len(edits))
        bank = FullBank(weight_DF.detach()[None])
        always = Always(self.layer)
        model = EditedModel(base.model, self.layer, bank, always, base.pad_id, base.stop_ids)
        return Edited((model,), weight_DF.nbytes)

    def _passes(self, base: Base, edits: Sequence[Edit]) -> Iterator[tuple[TrainBatch, Split]]:
        """All batches once per epoch, each time in another order."""
        encoded = [base.template.encode_edit(edit) for edit in edits]
        encoded.sort(key=lambda edit: len(edit.prompt.ids) + len(edit.target))
        parts = [encoded[i : i + self.batch_size] for i in range(0, len(encoded), self.batch_size)]
        batches = [pad_edits(part, base.pad_id, base.device) for part in parts]
        passes = [(b, split_edits(base.model, self.layer, b, None)) for b in batches]
        rng = random.Random(self.seed)
        for _ in range(self.epochs):
            rng.shuffle(passes)
            yield from passes


@dataclass(frozen=True)
class Always:
    """A single expert, applied to every prompt."""

    layer: int

    @property
    def layers(self) -> frozenset[int]:
        """The edited layer."""
        return frozenset({self.layer})

    def __len__(self) -> int:
        return 1

    def route(self, filled: Prefill) -> Route:
        """Expert 0 for each row."""
        return Route.fixed([0] * len(filled.batch), filled.logits_BV.device)


def _step(adam: torch.optim.Optimizer, logits_NV: Tensor, labels_BS: Tensor) -> None:
    expert_loss(logits_NV, labels_BS).mean().backward()
    adam.step()
    adam.zero_grad(set_to_none=True)


class WideLinear(nn.Module):
    """A linear with a float32 copy of the weights, in a model of any dtype."""

    def __init__(self, linear: Any) -> None:
        super().__init__()
        self.weight_OI = linear.weight.detach().float().clone()
        self.bias_O = None if linear.bias is None else linear.bias.detach().float()

    def forward(self, x: Tensor) -> Tensor:
        """The output in the dtype of the input."""
        return functional.linear(x.float(), self.weight_OI, self.bias_O).to(x.dtype)


@dataclass(frozen=True)
class EditableCopy:
    """A copy of a base for editing. It shares all parameters with the base, except those of
    `linears` (by layer and name within the MLP), which are replaced by `WideLinear`s."""

    model: Any
    linears: dict[tuple[int, str], WideLinear]

    @classmethod
    def of(cls, base: Base, layers: Sequence[int], names: Sequence[str]) -> "EditableCopy":
        """A copy in which the linears `names` of these layers can be changed."""
        shared = (*base.model.parameters(), *base.model.buffers())
        model = copy.deepcopy(base.model, {id(tensor): tensor for tensor in shared})
        linears = {}
        for layer in layers:
            mlp = model.model.layers[layer].mlp
            for name in names:
                linear = getattr(mlp, name)
                linears[layer, name] = WideLinear(getattr(linear, "linear", linear))
                setattr(mlp, name, linears[layer, name])
        return cls(model, linears)

    def edited(self, base: Base) -> Edited:
        """The copy as the result of a method; the changed matrices are what it stores."""
        size = sum(linear.weight_OI.nbytes for linear in self.linears.values())
        return Edited((plain_model(base, self.model),), size)


def layers_at(base: Base, first: float, last: float) -> list[int]:
    """The layers from the share `first` of the depth to the share `last`, inclusive."""
    return list(range(round(first * base.num_layers), round(last * base.num_layers) + 1))


@dataclass(frozen=True)
class UltraEditor:
    """UltraEdit (arXiv 2505.14679): one ridge regression per turn of `turn` edits, from the inputs
    of linears at the target tokens and the gradients of their outputs, both normalised by running
    statistics over all turns so far.

    It changes the gate and up projections of the layers from `first` to `last`, as shares of the
    depth; `lr` scales the update. Edits are run `batch_size` at a time.
    """

    first: float = 0.64
    last: float = 0.93
    lr: float = 1e-6
    turn: int = 100
    batch_size: int = 10

    def edit(self, base: Base, edits: Sequence[Edit], progress: StepProgress) -> Edited:
        """Edit a copy of the base, turn by turn."""
        layers = layers_at(base, self.first, min(self.last, 1 - 1 / base.num_layers))
        mlp = base.model.model.layers[layers[0]].mlp
        names = [n for n in ("gate_proj", "up_proj", "gate_up_proj") if hasattr(mlp, n)]
        edited = EditableCopy.of(base, layers, names)
        moments = {linear: RunningMoments() for linear in edited.linears.values()}
        for turn in chunks(edits, self.turn):
            parts: list[dict[WideLinear, tuple[Tensor, Tensor]]] = []
            for batch in chunks(turn, self.batch_size):
                parts.append(_features(base, edited, batch))
                progress(len(batch), len(edits))
            for linear, moment in moments.items():
                x_NI = torch.cat([part[linear][0] for part in parts])
                slope_NO = torch.cat([part[linear][1] for part in parts])
                linear.weight_OI += self.update(moment, x_NI, slope_NO)
        return edited.edited(base)

    def update(self, moment: "RunningMoments", x_NI: Tensor, slope_NO: Tensor) -> Tensor:
        """update_OI of a linear from its inputs and the gradients of its outputs at N tokens;
        `moment` is updated first."""
        feature_NX = torch.cat([x_NI, slope_NO], 1)
        moment.add(feature_NX)
        normed_NI, normed_NO = moment.normalise(feature_NX).split(
            [x_NI.shape[1], slope_NO.shape[1]], dim=1
        )
        value_NO = -self.lr * (normed_NI**2).sum(1, keepdim=True) * normed_NO
        gram_II = x_NI.T @ x_NI + torch.eye(x_NI.shape[1], device=x_NI.device)
        update_IO: Tensor = torch.linalg.solve(gram_II, x_NI.T @ value_NO)
        return update_IO.T


class RunningMoments:
    """Mean and variance of features over all batches so far."""

    def __init__(self) -> None:
        self.count = 0
        self._mean: Tensor | float = 0.0
        self._squares: Tensor | float = 0.0  # sum of squared deviations

    def add(self, feature_NX: Tensor) -> None:
        """Take a batch into account (the parallel form of Welford's recurrence)."""
        more, mean_X = len(feature_NX), feature_NX.mean(0)
        total, away_X = self.count + more, mean_X - self._mean
        self._squares = (
            self._squares
            + (feature_NX - mean_X).square().sum(0)
            + away_X.square() * (self.count * more / total)
        )
        self._mean = self._mean + away_X * (more / total)
        self.count = total

    def normalise(self, feature_NX: Tensor) -> Tensor:
        """The features with the running mean removed, divided by the standard deviation."""
        scale = math.sqrt(max(self.count - 1, 1))
        return (feature_NX - self._mean) * scale / (torch.as_tensor(self._squares).sqrt() + 1e-8)


def _features(
    base: Base, edited: EditableCopy, batch: Sequence[Edit]
) -> dict[WideLinear, tuple[Tensor, Tensor]]:
    """By linear: x_NI and the gradient of the mean loss in the output, at the positions that
    predict the N target and end tokens, float32."""
    train = pad_edits([base.template.encode_edit(e) for e in batch], base.pad_id, base.device)
    is_label_BS = train.labels_BS != IGNORED
    with _output_gradients(edited.linears.values()) as captured:
        h_BSD = edited.model.model(
            input_ids=train.ids_BT,
            attention_mask=train.mask_BT.long(),
            position_ids=train.positions_BT,
        ).last_hidden_state[:, train.prompt_length - 1 :]
        logits_NV = run_lm_head(edited.model, h_BSD[is_label_BS]).float()
        loss = functional.cross_entropy(logits_NV, train.labels_BS[is_label_BS])
        slopes = torch.autograd.grad(loss, [slot for _, slot in captured.values()])

    def at_targets(tensor_BTX: Tensor) -> Tensor:
        return tensor_BTX[:, train.prompt_length - 1 :][is_label_BS].float()

    return {
        linear: (at_targets(x_BTI), at_targets(slope_BTO))
        for (linear, (x_BTI, _)), slope_BTO in zip(captured.items(), slopes, strict=True)
    }


@contextmanager
def _output_gradients(
    linears: Iterable[WideLinear],
) -> Iterator[dict[WideLinear, tuple[Tensor, Tensor]]]:
    """Within this block, a forward stores the input of each linear, and a zero that is added to its
    output, whose gradient is that of the output."""
    captured: dict[WideLinear, tuple[Tensor, Tensor]] = {}

    def hook(linear: Any, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        slot = torch.zeros_like(output, requires_grad=True)
        captured[linear] = (args[0].detach(), slot)
        return output + slot

    handles = [linear.register_forward_hook(hook) for linear in linears]
    try:
        yield captured
    finally:
        for handle in handles:
            handle.remove()
