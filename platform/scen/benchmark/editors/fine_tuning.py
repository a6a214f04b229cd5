"""Fine-tuning on all edits: LoRA (peft), and one layer held near the base (FT-L)."""

import copy
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scen.benchmark.editors.in_context import plain_model
from scen.benchmark.editors.scen_methods import Edited, StepProgress
from scen.model.base import Base
from scen.model.batch import IGNORED, TrainBatch, pad_edits
from scen.model.decode import EditedModel
from scen.model.decoder import run_head
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
