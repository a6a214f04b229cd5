"""Locate, then edit: MEMIT and AlphaEdit write hidden states into weights by least squares.

Suffixes: E edits, B prompts, N tokens, S positions, D hidden size, F input size of `down_proj`.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from scen.benchmark.editors.fine_tuning import EditableCopy, layers_at
from scen.benchmark.editors.scen_methods import Edited, StepProgress, chunks
from scen.data.read import read_prompts
from scen.model.base import Base
from scen.model.batch import IGNORED, TrainBatch, pad_edits, pad_prompts
from scen.model.decoder import PrefixKV, capture_inputs, run_below, run_head, span_after
from scen.model.expert import expert_loss
from scen.model.prefill import Split, prefill, split_at
from scen.model.template import Template
from scen.records import Edit, EncodedEdit, EncodedPrompt
from scen.samples import sample_path

_PROSE = sample_path("hallucination_accurate.jsonl")  # not the prose of the upstream test
_ROWS = 32  # prompts per forward pass
_QUESTIONS = 100  # neutral questions behind the second moments, besides the prose
_ESSENCE = "{subject} is a"


def subject_end(base: Base, prompt: EncodedPrompt, subject: str | None) -> int:
    """The index of the last token of the subject's first occurrence in a prompt, or of the last
    token of the user's own words if it does not occur."""
    begin, end = prompt.own
    for stop in range(begin + 1, end + 1) if subject else ():
        text = base.tokenizer.decode(list(prompt.ids[begin:stop]))
        if str(subject).casefold() in text.casefold():
            return stop - 1
    return end - 1


@dataclass(frozen=True)
class Rows:
    """The wordings of some edits: `at_B` is the position of the subject's last token, `edit_B` the
    index of the edit, `is_essence_B` true where the prompt is "SUBJECT is a" (no target)."""

    batch: TrainBatch
    prompts: Sequence[EncodedPrompt]
    at_B: Tensor
    edit_B: Tensor
    is_essence_B: Tensor

    @classmethod
    def of(cls, base: Base, edits: Sequence[Edit], prefixes: Sequence[str]) -> "Rows":
        """Each edit's prompt, plain and behind each prefix, and the essence of its subject."""
        rows: list[tuple[EncodedPrompt, tuple[int, ...], int, bool]] = []
        for index, edit in enumerate(edits):
            target = base.template.encode_target(edit.target)
            for prefix in ("", *prefixes):
                prompt = base.template.encode_prompt(f"{prefix}{edit.prompt}")
                rows.append((prompt, target, index, False))
            if edit.subject:
                prompt = base.template.encode_prompt(_ESSENCE.format(subject=edit.subject))
                rows.append((prompt, (base.template.end_id,), index, True))
        encoded = [EncodedEdit(prompt, target, 0) for prompt, target, _, _ in rows]
        batch = pad_edits(encoded, base.pad_id, base.device)
        ends = [
            batch.prompt_length - len(prompt.ids) + subject_end(base, prompt, edits[index].subject)
            for prompt, _, index, _ in rows
        ]
        at_B, edit_B = torch.tensor(ends), torch.tensor([row[2] for row in rows])
        is_essence_B = torch.tensor([row[3] for row in rows])
        columns = (tensor.to(base.device) for tensor in (at_B, edit_B, is_essence_B))
        return cls(batch, [row[0] for row in rows], *columns)


@dataclass(frozen=True)
class Task:
    """What is needed to train shifts: the wordings, their split from position `start` on, and the
    norms of the hidden states that are shifted."""

    rows: Rows
    split: Split
    start: int
    norm_E: Tensor


class Solver(Protocol):
    """Finds the updates of one layer."""

    def update(self, key_EF: Tensor, value_ED: Tensor) -> Tensor:
        """update_DF, which adds about `value_ED` to the outputs for these keys."""
        ...

    def remember(self, key_EF: Tensor) -> None:
        """Called with the keys of the edits that were written."""
        ...


@dataclass
class LeastSquares:
    """The update of MEMIT: `ridge_FF` are the weighted second moments."""

    ridge_FF: Tensor

    def update(self, key_EF: Tensor, value_ED: Tensor) -> Tensor:
        """update_DF, which minimises |update k - v|^2 summed over the edits plus the trace of
        update ridge update^T."""
        solved_FE: Tensor = torch.linalg.solve(self.ridge_FF + key_EF.T @ key_EF, key_EF.T)
        return (solved_FE @ value_ED).T

    def remember(self, key_EF: Tensor) -> None:
        """MEMIT does not protect earlier edits."""


@dataclass
class NullSpace:
    """The update of AlphaEdit, confined by `projection_FF` and damped by `ridge`. It protects the
    keys of earlier edits (`seen_FF`)."""

    projection_FF: Tensor
    ridge: float
    seen_FF: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.seen_FF = torch.zeros_like(self.projection_FF)

    def update(self, key_EF: Tensor, value_ED: Tensor) -> Tensor:
        """update_DF, whose product with any key in the complement of the null space is zero."""
        kept_FF = self.projection_FF @ (key_EF.T @ key_EF + self.seen_FF)
        damped_FF = kept_FF + self.ridge * torch.eye(len(kept_FF), device=kept_FF.device)
        solved_FE: Tensor = torch.linalg.solve(damped_FF, self.projection_FF @ key_EF.T)
        return (solved_FE @ value_ED).T

    def remember(self, key_EF: Tensor) -> None:
        """Protect these keys from later updates."""
        self.seen_FF += key_EF.T @ key_EF


@dataclass(frozen=True)
class MemitEditor:
    """MEMIT (arXiv 2210.07229): the hidden state of each subject's last token is shifted so that
    the target follows, and the shift is written into `down_proj` of several layers at once by least
    squares against the second moments of keys in neutral text.

    The second moments are read once per base; that time is not charged to the edits. Layers run
    from `first` to `last`, as shares of the depth. Edits are made `batch_size` at a
    time. The shift is trained (Adam, `lr`, at most `steps`, until the loss is below `stop_loss`) on
    the plain prompt and behind `contexts` sentences, with a KL term of weight `kl` on "SUBJECT is
    a" and a norm of at most `clamp` times that of the hidden state. `weight` is that of the second
    moments.
    """

    first: float = 0.125
    last: float = 0.25
    batch_size: int = 100
    contexts: int = 1
    lr: float = 0.5
    steps: int = 20
    stop_loss: float = 0.05
    decay: float = 0.5
    kl: float = 0.0625
    clamp: float = 0.75
    weight: float = 100.0

    def edit(self, base: Base, edits: Sequence[Edit], progress: StepProgress) -> Edited:
        """Edit a copy of the base. All edits of a batch are written together."""
        layers = layers_at(base, self.first, self.last)
        edited = EditableCopy.of(base, layers, ["down_proj"])
        began = time.perf_counter()
        moments = second_moments(base, tuple(layers))
        spare = time.perf_counter() - began
        texts = read_prompts(_PROSE)[: self.contexts]
        prefixes = [f"{text.split('. ')[0]}. " for text in texts]
        solvers = {layer: self.solver(moments[layer]) for layer in layers}
        for batch in chunks(edits, self.batch_size):
            self._write(base, edited, batch, prefixes, solvers)
            progress(len(batch), len(edits))
        return replace(edited.edited(base), spare_seconds=spare)

    def solver(self, moment_FF: Tensor) -> Solver:
        """The solver of a layer with these second moments."""
        return LeastSquares(self.weight * moment_FF)

    def _write(
        self,
        base: Base,
        edited: EditableCopy,
        batch: Sequence[Edit],
        prefixes: Sequence[str],
        solvers: dict[int, Solver],
    ) -> None:
        last, model = max(solvers), edited.model
        parts = list(chunks(batch, max(1, _ROWS // (len(prefixes) + 2))))
        parts_rows = [Rows.of(base, part, prefixes) for part in parts]
        target_ED = torch.cat([self.target(base, model, last, rows) for rows in parts_rows])
        for position, layer in enumerate(sorted(solvers)):
            read = [read_states(model, base, rows, layer, last) for rows in parts_rows]
            key_EF = torch.cat([key_EF for key_EF, _ in read])
            missing_ED = target_ED - torch.cat([state_ED for _, state_ED in read])
            share_ED = missing_ED / (len(solvers) - position)
            linear = edited.linears[layer, "down_proj"]
            linear.weight_OI += solvers[layer].update(key_EF, share_ED)
        for layer, solver in solvers.items():
            keys = [read_states(model, base, rows, layer, last)[0] for rows in parts_rows]
            solver.remember(torch.cat(keys))

    def target(self, base: Base, model: Any, layer: int, rows: Rows) -> Tensor:
        """state_ED: the output of `layer` at the subject's last token that yields the target."""
        _, state_ED = read_states(model, base, rows, layer, layer)
        return state_ED + self._train(model, layer, self.task(base, model, layer, rows))

    def task(self, base: Base, model: Any, layer: int, rows: Rows) -> "Task":
        """What is needed to train the shifts of these edits."""
        start = int(rows.at_B.min())
        _, state_ED = read_states(model, base, rows, layer, layer)
        prompts = pad_prompts(rows.prompts, base.pad_id, base.device)
        prefix = PrefixKV.of(prefill(model, prompts, layer, ()).cache, start)
        span = span_after(rows.batch.mask_BT, rows.batch.positions_BT, prefix, start)
        split = split_at(model, layer, rows.batch.ids_BT[:, start:], span)
        return Task(rows, split, start, state_ED.norm(dim=1))

    def _train(self, model: Any, layer: int, task: Task) -> Tensor:
        """shift_ED. Edits do not influence each other; those whose loss is low enough are done."""
        norm_E = task.norm_E
        width = task.split.y_BSD.shape[-1]
        shift_ED = torch.zeros(len(norm_E), width, device=norm_E.device, requires_grad=True)
        adam = torch.optim.Adam([shift_ED], lr=self.lr)
        done_E = torch.zeros_like(norm_E, dtype=torch.bool)
        before_BV = None
        for _ in range(self.steps):
            loss_E, after_BV = target_losses(model, layer, task, shift_ED)
            before_BV = after_BV.detach() if before_BV is None else before_BV
            essence_E = task.rows.edit_B[task.rows.is_essence_B]
            kl_B = functional.kl_div(after_BV, before_BV, reduction="none", log_target=True).sum(1)
            length_E = shift_ED.norm(dim=1) / norm_E**2
            total_E = (loss_E + self.decay * length_E).index_add(0, essence_E, self.kl * kl_B)
            done_E |= total_E.detach() < self.stop_loss
            if bool(done_E.all()):
                break
            before_ED = shift_ED.detach().clone()
            total_E.sum().backward()
            adam.step()
            adam.zero_grad(set_to_none=True)
            with torch.no_grad():
                most_E = self.clamp * norm_E / shift_ED.norm(dim=1).clamp_min(1e-12)
                shift_ED *= most_E.clamp(max=1)[:, None]
                shift_ED[done_E] = before_ED[done_E]
        return shift_ED.detach()


def target_losses(model: Any, layer: int, task: Task, shift_ED: Tensor) -> tuple[Tensor, Tensor]:
    """loss_E of the targets, averaged over the wordings of an edit, and the log-probabilities after
    the essence prompts (float32)."""
    rows, split = task.rows, task.split
    row_B = torch.arange(len(rows.at_B), device=rows.at_B.device)
    moved_BD = shift_ED[rows.edit_B].to(split.y_BSD.dtype)
    y_BSD = split.y_BSD.index_put((row_B, rows.at_B - task.start), moved_BD, accumulate=True)
    labels_BS = rows.batch.labels_BS
    h_BSD = split.above(model, layer, y_BSD)[:, -labels_BS.shape[1] :]
    split.span.prefix.fresh.clear()  # drop the state computed in this pass
    is_fact_B = ~rows.is_essence_B
    labels_BS, fact_B = labels_BS[is_fact_B], rows.edit_B[is_fact_B]
    logits_NV = run_head(model, h_BSD[is_fact_B][labels_BS != IGNORED])
    count_E = torch.bincount(fact_B, minlength=len(shift_ED))
    zero_E = torch.zeros(len(shift_ED), device=shift_ED.device)
    loss_E = zero_E.index_add(0, fact_B, expert_loss(logits_NV, labels_BS)) / count_E
    essence_BV = run_head(model, h_BSD[rows.is_essence_B, 0]).float()
    return loss_E, essence_BV.log_softmax(-1)


@torch.no_grad()
def read_states(model: Any, base: Base, rows: Rows, layer: int, last: int) -> tuple[Tensor, Tensor]:
    """The keys of the edits at `layer` (input of `down_proj`; the plain prompt and the mean of the
    others weigh the same) and, in the plain prompts, the output of layer `last`; both at the
    subject's last token, float32."""
    prompts = pad_prompts(rows.prompts, base.pad_id, base.device)
    span = span_after(prompts.mask_BP, prompts.positions_BP, PrefixKV({}), 0)
    with capture_inputs(model, [layer]) as inputs:
        h_BSD = run_below(model, last + 1, prompts.ids_BP, span)
    row_B = torch.arange(len(rows.at_B), device=rows.at_B.device)
    x_BF, h_BD = inputs[layer][row_B, rows.at_B].float(), h_BSD[row_B, rows.at_B].float()
    is_plain_B = torch.ones_like(rows.is_essence_B)
    is_plain_B[1:] = rows.edit_B[1:] != rows.edit_B[:-1]
    key_EF = x_BF[is_plain_B]
    is_other_B = ~is_plain_B & ~rows.is_essence_B
    if bool(is_other_B.any()):
        other_B = rows.edit_B[is_other_B]
        total_EF = torch.zeros_like(key_EF).index_add(0, other_B, x_BF[is_other_B])
        mean_EF = total_EF / torch.bincount(other_B, minlength=len(key_EF))[:, None]
        key_EF = (key_EF + mean_EF) / 2
    return key_EF, h_BD[is_plain_B]


def second_moments(base: Base, layers: tuple[int, ...]) -> dict[int, Tensor]:
    """moment_FF by layer: the mean of k k^T over the inputs k of `down_proj` at all tokens of
    Wikipedia sentences (without chat template) and of neutral questions (with it), float32.

    Computed once per process for a base, dtype and choice of layers.
    """
    known = (base.fingerprint, str(base.dtype), layers)
    if known not in _MOMENTS:
        _MOMENTS[known] = _read_moments(base, layers)
    return _MOMENTS[known]


_MOMENTS: dict[tuple[str, str, tuple[int, ...]], dict[int, Tensor]] = {}


@torch.no_grad()
def _read_moments(base: Base, layers: Sequence[int]) -> dict[int, Tensor]:
    raw = Template("raw", base.tokenizer)
    questions = read_prompts(sample_path("nq_neutral.jsonl"))[:_QUESTIONS]
    encoded = [raw.encode_prompt(text) for text in read_prompts(_PROSE)]
    encoded += [base.template.encode_prompt(text) for text in questions]
    encoded.sort(key=lambda prompt: len(prompt.ids))
    width = int(base.config.intermediate_size)
    totals = {layer: torch.zeros(width, width, device=base.device) for layer in layers}
    count = 0
    for batch in chunks(encoded, _ROWS):
        prompts = pad_prompts(batch, base.pad_id, base.device)
        span = span_after(prompts.mask_BP, prompts.positions_BP, PrefixKV({}), 0)
        with capture_inputs(base.model, layers) as inputs:
            run_below(base.model, max(layers) + 1, prompts.ids_BP, span)
        count += int(prompts.mask_BP.sum())
        for layer, total_FF in totals.items():
            x_NF = inputs[layer][prompts.mask_BP].float()
            total_FF += x_NF.T @ x_NF
    return {layer: total_FF / count for layer, total_FF in totals.items()}


@dataclass(frozen=True)
class AlphaEditEditor(MemitEditor):
    """AlphaEdit (arXiv 2410.02355): as MEMIT, but each update is projected onto the null space of
    the keys of neutral text: the eigenvectors of their second moments with eigenvalues below
    `threshold` times the mean eigenvalue. `ridge` is the weight of the update's norm."""

    threshold: float = 0.1
    ridge: float = 1.0

    def solver(self, moment_FF: Tensor) -> Solver:
        """The solver of a layer, with its projection."""
        return NullSpace(null_projection(moment_FF, self.threshold), self.ridge)


def null_projection(moment_FF: Tensor, threshold: float) -> Tensor:
    """projection_FF onto the eigenvectors with eigenvalues below `threshold` times their mean."""
    value_F, vector_FF = torch.linalg.eigh(moment_FF)
    basis_FK: Tensor = vector_FF[:, value_F < threshold * value_F.mean()]
    return basis_FK @ basis_FK.T
