"""Stage 1: one expert per edit, many edits per batch, only what lies above the edited layer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from scen.editor.batch import IGNORED, pad_edits, pad_prompts
from scen.editor.expert import FullBank, LowRankBank, build_bank, join_banks
from scen.editor.losses import expert_loss
from scen.editor.pace import ALONE, Pace
from scen.editor.prefill import Prefill, prefill
from scen.editor.split import Split, run_head, split_edits
from scen.records import EncodedEdit

Method = Literal["scen", "scen-lr"]
Bank = LowRankBank | FullBank
_IDLE = -1  # in place of an edit's index: a row that is only run to keep in step


@dataclass(frozen=True)
class ExpertPlan:
    """How experts are trained. `stop_loss` (nats) ends an edit early; 0 never does."""

    method: Method
    layer: int
    steps: int
    lr: float
    rank: int = 4
    stop_loss: float = 0.0


@dataclass(frozen=True)
class FittedExperts:
    """The experts in the order of the edits; `losses[i]` is edit i's loss before each step."""

    bank: Bank
    losses: list[list[float]]


def fit_experts(
    model: Any,
    plan: ExpertPlan,
    edits: Sequence[EncodedEdit],
    pad_id: int,
    filled: Prefill | None = None,
    pace: Pace = ALONE,
) -> FittedExperts:
    """Train the experts of one batch of edits. Rows do not influence each other.

    Method `scen` tunes a full copy of the linear acting on every position (arXiv 2404.02699);
    `scen-lr` a rank-r term acting from the last prompt token on, so that the prompt is run once
    and the inner steps touch the last prompt token and the target only. `filled` is that run of
    the same prompts, where it was done already.
    """
    device = next(model.parameters()).device
    batch = pad_edits(edits, pad_id, device)
    if plan.method == "scen-lr" and filled is None:
        prompts = pad_prompts([e.prompt for e in edits], pad_id, device)
        filled = prefill(model, prompts, plan.layer, (), pace=pace)
    cache = filled.cache if filled and plan.method == "scen-lr" else None
    split = split_edits(model, plan.layer, batch, cache)
    bank = start_bank(model, plan, [e.seed for e in edits], pace)
    return _descend(model, plan, split, batch.labels_BS, bank, pace)


def start_bank(model: Any, plan: ExpertPlan, seeds: Sequence[int], pace: Pace = ALONE) -> Bank:
    """Experts before training: copies of the base's linear, or terms that add nothing yet."""
    linear = model.model.layers[plan.layer].mlp.down_proj
    linear = getattr(linear, "linear", linear)
    device = linear.weight.device
    # Steps of 1e-4 vanish in bfloat16, so experts are trained in float32 at least.
    kind = torch.promote_types(linear.weight.dtype, torch.float32)
    width_D, width_F = linear.out_features, linear.in_features
    if plan.method == "scen":
        weight_DF = pace.whole(linear.weight).detach()
        return FullBank(weight_DF.to(kind)[None].repeat(len(seeds), 1, 1))
    draws = [
        torch.randn(plan.rank, width_F, generator=torch.Generator().manual_seed(seed))
        for seed in seeds
    ]
    down_ErF = (torch.stack(draws) * width_F**-0.5).to(device, kind)
    up_EDr = torch.zeros(len(seeds), width_D, plan.rank, device=device, dtype=kind)
    return LowRankBank(down_ErF, up_EDr)


def _descend(
    model: Any, plan: ExpertPlan, split: Split, labels_BS: Tensor, bank: Bank, pace: Pace
) -> FittedExperts:
    rows = torch.arange(len(bank), device=labels_BS.device)  # edits still in training
    done: dict[int, Bank] = {}
    losses: list[list[float]] = [[] for _ in range(len(bank))]
    adam = _adam(bank, plan.lr)
    for _ in range(plan.steps):
        with torch.enable_grad():
            loss_B = _loss(model, plan.layer, split, labels_BS, bank)
        for row, loss in zip(rows.tolist(), loss_B.tolist(), strict=True):
            if row != _IDLE:
                losses[row].append(loss)
        keep = ((loss_B.detach() >= plan.stop_loss) & (rows != _IDLE)).nonzero().squeeze(1)
        if len(keep) < len(rows):
            _set_aside(done, bank, rows, keep)
        if not pace.anyone(len(keep) > 0):
            return _collect(done, losses)
        if len(keep) == 0:  # other ranks go on: so does one row, for nothing
            rows, keep = torch.full_like(rows, _IDLE), torch.zeros_like(rows[:1])
        loss_B.sum().backward()
        pace.after_backward()
        adam.step()
        adam.zero_grad(set_to_none=True)
        if len(keep) < len(rows):
            rows, labels_BS, split = rows[keep], labels_BS[keep], split.take(keep)
            bank, adam = _take(bank, adam, keep)
    _set_aside(done, bank, rows, rows[:0])
    return _collect(done, losses)


def _loss(model: Any, layer: int, split: Split, labels_BS: Tensor, bank: Bank) -> Tensor:
    expert_B = torch.arange(len(bank), device=labels_BS.device)
    y_BSD = _apply(bank, split, expert_B)
    h_BSD = split.above(model, layer, y_BSD)
    told_ND = h_BSD[:, -labels_BS.shape[1] :][labels_BS != IGNORED]
    return expert_loss(run_head(model, told_ND), labels_BS)


def _apply(bank: Bank, split: Split, expert_B: Tensor) -> Tensor:
    if isinstance(bank, LowRankBank):
        return bank.apply(split.x_BSF, split.y_BSD, expert_B)
    # Every row has its own expert here, so one batched product does for all.
    x_BSF = split.x_BSF.to(bank.weight_EDF.dtype)
    return torch.bmm(x_BSF, bank.weight_EDF.transpose(1, 2)).to(split.y_BSD.dtype)


def _adam(bank: Bank, lr: float) -> torch.optim.Adam:
    return torch.optim.Adam([t.requires_grad_() for t in bank.tensors().values()], lr=lr)


def _take(bank: Bank, adam: torch.optim.Adam, keep: Tensor) -> tuple[Bank, torch.optim.Adam]:
    """The bank and the optimiser of some rows, moments included."""
    before = bank.tensors()
    fewer = build_bank({name: t.detach()[keep] for name, t in before.items()})
    after = _adam(fewer, adam.param_groups[0]["lr"])
    for old, new in zip(before.values(), fewer.tensors().values(), strict=True):
        state = adam.state[old]
        moments = {name: state[name][keep] for name in ("exp_avg", "exp_avg_sq")}
        after.state[new] = {"step": state["step"], **moments}
    return fewer, after


def _set_aside(done: dict[int, Bank], bank: Bank, rows: Tensor, keep: Tensor) -> None:
    """Copy the experts that are finished: all rows but those at the indices `keep`."""
    open_rows = set(keep.tolist())
    for index, row in enumerate(rows.tolist()):
        if index not in open_rows and row != _IDLE:
            parts = {n: t.detach()[index : index + 1].clone() for n, t in bank.tensors().items()}
            done[row] = build_bank(parts)


def _collect(done: dict[int, Bank], losses: list[list[float]]) -> FittedExperts:
    return FittedExperts(join_banks([done[row] for row in sorted(done)]), losses)
