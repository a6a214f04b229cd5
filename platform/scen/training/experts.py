"""Stage 1: one expert per edit, trained in batches; steps run only layers above the edited one."""

import random
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from scen.data.asking import Topic, wordings
from scen.errors import ConfigError
from scen.method import METHODS, MethodName
from scen.model.batch import IGNORED, pad_edits
from scen.model.decoder import NO_SYNC, RankSync, run_head
from scen.model.expert import FullBank, LowRankBank, build_bank, expert_loss, join_banks
from scen.model.prefill import Prefill, Split, prefill_prompts, split_edits
from scen.model.template import Template
from scen.records import Edit, EncodedEdit, EncodedPrompt

Bank = LowRankBank | FullBank
_IDLE = -1  # in place of an edit's index: a no-op row that keeps ranks in lockstep
_HALF = 2  # bytes per number
_CONFIDENT_LOSS = 0.03  # nats per token; below it, every answer measured was correct


@dataclass(frozen=True)
class ExpertPlan:
    """How experts are trained. An edit stops early below `stop_loss` (nats per token); 0 disables
    this. With `other_ways`, edits that fail in one of their other wordings are trained on all of
    them."""

    method: MethodName
    layer: int
    steps: int
    lr: float
    rank: int = 4
    stop_loss: float = 0.0
    other_ways: bool = False

    @property
    def is_low_rank(self) -> bool:
        """See `scen.method.Method`."""
        return METHODS[self.method].is_low_rank


@dataclass(frozen=True)
class FittedExperts:
    """The experts in the order of the edits; `losses[i]` is the loss of edit i before each step,
    averaged over its wordings if it is trained on several."""

    bank: Bank
    losses: list[list[float]]


def fit_experts(
    model: Any,
    plan: ExpertPlan,
    edits: Sequence[EncodedEdit],
    pad_id: int,
    filled: Prefill | None = None,
    sync: RankSync = NO_SYNC,
) -> FittedExperts:
    """Train the experts of one batch of edits. Rows do not influence each other.

    Method `scen` tunes a full copy of the linear, which acts on every position (arXiv 2404.02699).
    `scen-lr` tunes a rank-r term that acts from the last prompt token on, so the prompt is run once
    and the steps run only the last prompt token and the target. `filled` is the prefill of the same
    prompts, if there is one already.
    """
    return ExpertTrainer(model, plan, pad_id, sync).fit(edits, filled)


@dataclass(frozen=True)
class ExpertTrainer:
    """Trains experts on one base, in lockstep with other ranks if it is sharded."""

    model: Any
    plan: ExpertPlan
    pad_id: int
    sync: RankSync = NO_SYNC

    def fit(self, edits: Sequence[EncodedEdit], filled: Prefill | None = None) -> FittedExperts:
        """Train the experts of a batch; see `fit_experts`."""
        split, labels_BS = self._split(edits, filled)
        bank = start_bank(self.model, self.plan, [e.seed for e in edits], self.sync)
        rows = torch.arange(len(edits), device=labels_BS.device)
        done, losses = self._descend(split, labels_BS, bank, rows)
        fitted = FittedExperts(join_banks([done[row] for row in sorted(done)]), losses)
        if self.plan.is_low_rank and self.plan.other_ways:
            return self._fit_other_ways(edits, fitted, split, labels_BS)
        return fitted

    @torch.no_grad()
    def losses(self, edits: Sequence[EncodedEdit], bank: Bank) -> Tensor:
        """loss_B (nats per token) of each edit with the expert at the same index."""
        split, labels_BS = self._split(edits)
        return self._loss(split, labels_BS, bank)

    def _fit_other_ways(
        self, edits: Sequence[EncodedEdit], fitted: FittedExperts, own: Split, labels_BS: Tensor
    ) -> FittedExperts:
        """Continue training, on all wordings, the experts of edits whose loss in one wording is too
        high. `own` is the split of the edits' own prompts; all edits must have the same number of
        wordings."""
        splits = [own]
        worst_B = torch.zeros(len(edits))
        for way in range(len(edits[0].ways)):
            split, _ = self._split([replace(edit, prompt=edit.ways[way]) for edit in edits])
            with torch.no_grad():
                worst_B = worst_B.maximum(self._loss(split, labels_BS, fitted.bank).cpu())
            splits.append(split)
        bound = max(_CONFIDENT_LOSS, self.plan.stop_loss)
        pending = (worst_B >= bound).nonzero().squeeze(1).tolist()
        tensors = {name: tensor.detach().clone() for name, tensor in fitted.bank.tensors().items()}
        losses = [list(curve) for curve in fitted.losses]
        # About as many rows per batch as in the first pass.
        size = max(1, len(edits) // len(splits))
        while self.sync.any_rank(len(pending) > 0):
            batch, pending = pending[:size], pending[size:]
            picked = torch.tensor(batch or [0])  # a no-op row, in lockstep with other ranks
            # Row by row: the wordings of one edit stand together.
            order = torch.arange(len(splits) * len(picked)).view(len(splits), -1).T.flatten()
            joined = Split.join([split.take(picked) for split in splits]).take(order)
            rows = torch.arange(len(picked), device=labels_BS.device)
            bank = build_bank({name: tensor[picked].clone() for name, tensor in tensors.items()})
            rows = rows if batch else torch.full_like(rows, _IDLE)
            labels = labels_BS[picked].repeat_interleave(len(splits), 0)
            done, curves = self._descend(joined, labels, bank, rows)
            for row, expert in done.items():
                losses[batch[row]] += curves[row]
                for name, tensor in expert.tensors().items():
                    tensors[name][batch[row]] = tensor[0]
        return FittedExperts(build_bank(tensors), losses)

    def _split(
        self, edits: Sequence[EncodedEdit], filled: Prefill | None = None
    ) -> tuple[Split, Tensor]:
        """The edits run up to the edited layer, and labels_BS."""
        layer = self.plan.layer
        device = next(self.model.parameters()).device
        if not self.plan.is_low_rank:
            batch = pad_edits(edits, self.pad_id, device)
            return split_edits(self.model, layer, batch, None), batch.labels_BS
        if filled is None:
            prompts = [edit.prompt for edit in edits]
            filled = prefill_prompts(self.model, prompts, self.pad_id, layer, sync=self.sync)
        batch = pad_edits(edits, self.pad_id, device, filled.batch.shared)
        return split_edits(self.model, layer, batch, filled.cache), batch.labels_BS

    def _descend(
        self, split: Split, labels_BS: Tensor, bank: Bank, rows: Tensor
    ) -> tuple[dict[int, Bank], list[list[float]]]:
        """The trained experts by index, and their losses. `rows` are the indices of the edits in
        training, one per expert of the bank; the batch has the same number of rows for each."""
        per_edit = len(labels_BS) // len(bank)
        done: dict[int, Bank] = {}
        losses: list[list[float]] = [[] for _ in range(len(bank))]
        adam = _adam(bank, self.plan.lr)
        for _ in range(self.plan.steps):
            with torch.enable_grad(), _fast_attention(split.y_BSD):
                loss_EB = self._loss(split, labels_BS, bank).view(-1, per_edit)
                loss_E = loss_EB.mean(1)
            for row, loss in zip(rows.tolist(), loss_E.tolist(), strict=True):
                if row != _IDLE:
                    losses[row].append(loss)
            worst_E = loss_EB.detach().amax(1)
            keep = ((worst_E >= self.plan.stop_loss) & (rows != _IDLE)).nonzero().squeeze(1)
            if len(keep) < len(rows):
                _set_aside(done, bank, rows, keep)
            if not self.sync.any_rank(len(keep) > 0):
                return done, losses
            if len(keep) == 0:  # other ranks continue: one no-op row keeps this rank in lockstep
                rows, keep = torch.full_like(rows, _IDLE), torch.zeros_like(rows[:1])
            loss_E.sum().backward()
            self.sync.after_backward()
            adam.step()
            adam.zero_grad(set_to_none=True)
            if len(keep) < len(rows):
                offsets = torch.arange(per_edit, device=keep.device)
                batch_rows = (keep[:, None] * per_edit + offsets).flatten()
                rows, labels_BS, split = rows[keep], labels_BS[batch_rows], split.take(batch_rows)
                bank, adam = _take(bank, adam, keep)
        _set_aside(done, bank, rows, rows[:0])
        return done, losses

    def _loss(self, split: Split, labels_BS: Tensor, bank: Bank) -> Tensor:
        expert_B = torch.arange(len(bank), device=labels_BS.device)
        y_BSD = _apply(bank, split, expert_B.repeat_interleave(len(labels_BS) // len(bank)))
        h_BSD = split.above(self.model, self.plan.layer, y_BSD)
        target_ND = h_BSD[:, -labels_BS.shape[1] :][labels_BS != IGNORED]
        return expert_loss(run_head(self.model, target_ND), labels_BS)


def _fast_attention(x: Tensor) -> AbstractContextManager[None]:
    """On a CPU in 16 bits, the backward pass of fused attention takes two to four times as long as
    that of plain attention."""
    if x.device.type != "cpu" or x.dtype.itemsize > _HALF:
        return nullcontext()
    return sdpa_kernel(SDPBackend.MATH)


def start_bank(
    model: Any, plan: ExpertPlan, seeds: Sequence[int], sync: RankSync = NO_SYNC
) -> Bank:
    """Initial experts: copies of the base's linear, or low-rank terms whose output is zero."""
    linear = model.model.layers[plan.layer].mlp.down_proj
    linear = getattr(linear, "linear", linear)
    device = linear.weight.device
    # Updates of 1e-4 are lost to rounding in bfloat16, so training uses at least float32.
    dtype = torch.promote_types(linear.weight.dtype, torch.float32)
    width_D, width_F = linear.out_features, linear.in_features
    if not plan.is_low_rank:
        if linear.bias is not None:
            raise ConfigError(
                "method: scen replaces the weight matrix of mlp.down_proj, which has a bias in "
                "this base; use scen-lr"
            )
        weight_DF = sync.whole(linear.weight).detach()
        return FullBank(weight_DF.to(dtype)[None].repeat(len(seeds), 1, 1))
    initial = [
        torch.randn(plan.rank, width_F, generator=torch.Generator().manual_seed(seed))
        for seed in seeds
    ]
    down_ErF = (torch.stack(initial) * width_F**-0.5).to(device, dtype)
    up_EDr = torch.zeros(len(seeds), width_D, plan.rank, device=device, dtype=dtype)
    return LowRankBank(down_ErF, up_EDr)


def _apply(bank: Bank, split: Split, expert_B: Tensor) -> Tensor:
    if isinstance(bank, LowRankBank):
        return bank.apply(split.x_BSF, split.y_BSD, expert_B)
    # Each row has its own expert here, so a single batched product covers all rows.
    x_BSF = split.x_BSF.to(bank.weight_EDF.dtype)
    return torch.bmm(x_BSF, bank.weight_EDF.transpose(1, 2)).to(split.y_BSD.dtype)


def _adam(bank: Bank, lr: float) -> torch.optim.Adam:
    return torch.optim.Adam([t.requires_grad_() for t in bank.tensors().values()], lr=lr)


def _take(bank: Bank, adam: torch.optim.Adam, keep: Tensor) -> tuple[Bank, torch.optim.Adam]:
    """The bank and the optimiser restricted to these rows, moments included."""
    before = bank.tensors()
    fewer = build_bank({name: t.detach()[keep] for name, t in before.items()})
    after = _adam(fewer, adam.param_groups[0]["lr"])
    for old, new in zip(before.values(), fewer.tensors().values(), strict=True):
        state = adam.state[old]
        moments = {name: state[name][keep] for name in ("exp_avg", "exp_avg_sq")}
        after.state[new] = {"step": state["step"], **moments}
    return fewer, after


def _set_aside(done: dict[int, Bank], bank: Bank, rows: Tensor, keep: Tensor) -> None:
    """Copy the finished experts to `done`: all rows except those at the indices `keep`."""
    open_rows = set(keep.tolist())
    for index, row in enumerate(rows.tolist()):
        if index not in open_rows and row != _IDLE:
            parts = {n: t.detach()[index : index + 1].clone() for n, t in bank.tensors().items()}
            done[row] = build_bank(parts)


WAYS = ("UPPER CASE", "several")
"""Wordings of the `fit` set that differ most from the prompt, and failed most often."""


def encode_edits(
    template: Template, edits: Sequence[Edit], *, other_ways: bool
) -> list[EncodedEdit]:
    """Edits as tokens, with their prompts in other wordings if `other_ways`. A `raw` template
    completes text instead of answering questions, so it has no other wordings."""
    encoded = [template.encode_edit(edit) for edit in edits]
    if not other_ways or template.name == "raw":
        return encoded
    return [
        replace(tokens, ways=_ways(template, edit))
        for tokens, edit in zip(encoded, edits, strict=True)
    ]


def _ways(template: Template, edit: Edit) -> tuple[EncodedPrompt, ...]:
    """The prompt of an edit in other wordings; depends on the edit alone, not on its wave."""
    rng, ask = random.Random(edit.seed), Topic(edit.prompt, edit.subject)
    messages = [wordings("fit").ask(way, ask, rng) for way in WAYS]
    prompts = [template.encode_prompt(m.text) for m in messages if m is not None]
    return tuple(replace(prompt, routed=None) for prompt in prompts)  # nothing is routed here
