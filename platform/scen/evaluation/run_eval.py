"""Run probes in batches on the base and on the edited model, teacher-forced as well, and measure
latencies.

Suffixes: B probes, R routed ones, N target tokens, S positions, D hidden size, F input size of the
edited linear, V vocabulary.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor
from torch.nn import functional

from scen.evaluation.metrics import Outcome
from scen.evaluation.probes import Probe
from scen.model.base import Base
from scen.model.batch import IGNORED, pad_edits
from scen.model.decode import Decoded, EditedModel, answer
from scen.model.decoder import run_head
from scen.model.prefill import Prefill, Split, split_edits
from scen.model.route import Route
from scen.records import EncodedEdit, EncodedPrompt


@dataclass(frozen=True, slots=True)
class BatchTime:
    """Timing of one batch of prompts. `seconds` covers everything: the answers of the base and of
    the edited model, and teacher forcing; `answer_seconds` is the edited model's time from the
    prompts to the end of the last answer."""

    prompts: int
    seconds: float
    answer_seconds: float


def latency_metrics(batches: Sequence[BatchTime]) -> dict[str, float]:
    """Median and p95 over all prompts of the seconds to the answer: a prompt waits for its whole
    batch, of `prompts_per_batch` prompts on average. `seconds_per_probe` is the total time over the
    number of prompts. Empty without prompts."""
    waits = sorted(batch.answer_seconds for batch in batches for _ in range(batch.prompts))
    if not waits:
        return {}
    return {
        "answer_seconds_median": median(waits),
        "answer_seconds_p95": waits[math.ceil(0.95 * len(waits)) - 1],
        "prompts_per_batch": len(waits) / len(batches),
        "seconds_per_probe": sum(batch.seconds for batch in batches) / len(waits),
    }


_SPARE_TOKENS = 8  # an answer this much longer than its target cannot be the target


@dataclass(frozen=True)
class EvalLimits:
    """Batch size and answer lengths, in prompts and tokens."""

    batch_size: int
    max_new_tokens: int
    locality_tokens: int


@dataclass(frozen=True)
class ProbeRow:
    """A probe as tokens, and the token limit of its answer (`budget`)."""

    index: int
    probe: Probe
    prompt: EncodedPrompt
    target: tuple[int, ...]
    budget: int


@dataclass(frozen=True)
class Measured:
    """The outcomes of a batch of probes, and its timing."""

    outcomes: list[Outcome]
    time: BatchTime


def order_probes(base: Base, probes: Sequence[Probe], limits: EvalLimits) -> list[int]:
    """Indices of the probes in batching order: similar ones next to each other."""
    rows = [encode_probe(base, index, probe, limits) for index, probe in enumerate(probes)]
    rows.sort(key=lambda row: (row.probe.target is None, row.budget, len(row.prompt.ids)))
    return [row.index for row in rows]


def run_eval(
    base: Base,
    edited: EditedModel,
    edit_ids: Sequence[str],
    probes: Sequence[Probe],
    limits: EvalLimits,
    progress: Callable[[int], None] = lambda _: None,
) -> list[Outcome]:
    """The outcome of each probe, in order. `edit_ids` are the ids of the bank's experts."""
    order = order_probes(base, probes, limits)
    rows = [encode_probe(base, index, probes[index], limits) for index in order]
    outcome_by_index: dict[int, Outcome] = {}
    for begin in range(0, len(rows), limits.batch_size):
        group = rows[begin : begin + limits.batch_size]
        outcomes = _run_batch(base, edited, edit_ids, group).outcomes
        for row, outcome in zip(group, outcomes, strict=True):
            outcome_by_index[row.index] = outcome
        progress(len(group))
    return [outcome_by_index[index] for index in range(len(probes))]


def measure_batch(
    base: Base,
    edited: EditedModel,
    edit_ids: Sequence[str],
    probes: Sequence[Probe],
    limits: EvalLimits,
) -> Measured:
    """As `run_eval`, with all probes in one batch regardless of its size."""
    rows = [encode_probe(base, index, probe, limits) for index, probe in enumerate(probes)]
    return _run_batch(base, edited, edit_ids, rows)


def encode_probe(base: Base, index: int, probe: Probe, limits: EvalLimits) -> ProbeRow:
    """A probe as tokens of the base."""
    prompt = encode_turns(base, probe)
    if probe.target is None:
        return ProbeRow(index, probe, prompt, (), limits.locality_tokens)
    target = base.template.encode_target(probe.target)
    budget = min(limits.max_new_tokens, len(target) + _SPARE_TOKENS)
    return ProbeRow(index, probe, prompt, target, budget)


def encode_turns(base: Base, probe: Probe) -> EncodedPrompt:
    """A probe's earlier turns and prompt."""
    if not probe.earlier:
        return base.template.encode_prompt(probe.prompt)
    turns = [*probe.earlier, ("user", probe.prompt)]
    return base.template.encode_chat([{"role": role, "content": text} for role, text in turns])


def _run_batch(
    base: Base, edited: EditedModel, edit_ids: Sequence[str], rows: Sequence[ProbeRow]
) -> Measured:
    began = _now(base.device)
    filled = edited.prefill_prompts([row.prompt for row in rows])
    prefilled = _now(base.device)
    before = answer_rows(edited, filled, rows, Route.base(len(rows), base.device))
    base_answered = _now(base.device)
    after = answer_rows(edited, filled, rows, edited.route(filled))
    answered = _now(base.device)
    teacher_forced = force_rows(edited, filled, rows, after.route)
    outcomes = []
    for i, row in enumerate(rows):
        route = after.route.take(torch.tensor([i], device=base.device))
        expert, nearest, runner_up = map(int, (route.expert_B, route.nearest_B, route.runner_up_B))
        is_free = row.probe.target is None
        outcomes.append(
            Outcome(
                probe=row.probe,
                before=row_text(base, before, i, row),
                after=row_text(base, after, i, row),
                routed_to=edit_ids[expert] if expert >= 0 else None,
                score=float(route.score_B),
                nearest=edit_ids[nearest] if nearest >= 0 else None,
                identical=torch.equal(row_logits(before, i, row), row_logits(after, i, row))
                if is_free
                else None,
                forced_before=teacher_forced[i][0],
                forced_after=teacher_forced[i][1],
                runner_up=edit_ids[runner_up] if runner_up >= 0 else None,
            )
        )
    answering = prefilled - began + answered - base_answered
    return Measured(outcomes, BatchTime(len(rows), _now(base.device) - began, answering))


def _now(device: torch.device) -> float:
    """Seconds of a monotonic clock, after synchronising with the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def answer_rows(
    edited: EditedModel, filled: Prefill, rows: Sequence[ProbeRow], route: Route
) -> Decoded:
    """The free answers of a batch under a route; with logits if a row has no target."""
    compare = any(row.probe.target is None for row in rows)
    budget = max(row.budget for row in rows)
    return answer(edited, filled, route, budget, keep_logits=compare)


def row_text(base: Base, decoded: Decoded, index: int, row: ProbeRow) -> str:
    """The answer of a row, within its budget."""
    return base.template.decode(decoded.tokens[index][: row.budget])


def row_logits(decoded: Decoded, index: int, row: ProbeRow) -> Tensor:
    """logits_SV of a row's answer, within its budget, up to its end token."""
    assert decoded.logits_BSV is not None
    tokens = decoded.tokens[index][: row.budget]
    steps = min(len(tokens) + int(decoded.stopped[index]), row.budget)
    return decoded.logits_BSV[index, :steps]


def force_rows(
    edited: EditedModel, filled: Prefill, rows: Sequence[ProbeRow], route: Route
) -> list[tuple[float | None, float | None]]:
    """Teacher-forced accuracy of each row before and after; None for rows without a target."""
    accuracy: list[tuple[float | None, float | None]] = [(None, None)] * len(rows)
    targeted = [i for i, row in enumerate(rows) if row.target]
    if not edited.sync.any_rank(bool(targeted)):
        return accuracy
    if not targeted:  # a no-op forward, so that ranks stay in lockstep
        idle = EncodedEdit(rows[0].prompt, (edited.pad_id,) * 2, 0)
        teacher_forced_accuracy(edited, [idle], route.take(torch.tensor([0])))
    else:
        probes = [EncodedEdit(rows[i].prompt, rows[i].target, 0) for i in targeted]
        taken = route.take(torch.tensor(targeted, device=route.expert_B.device))
        # The prefill's cache fits only if every row of the batch has a target.
        reused = filled if len(targeted) == len(rows) else None
        before, after = teacher_forced_accuracy(edited, probes, taken, reused)
        for i, pair in zip(targeted, zip(before, after, strict=True), strict=True):
            accuracy[i] = pair
    return accuracy


@dataclass(frozen=True)
class _TargetTokens:
    """Logits, labels and batch row (`row_N`) of all target tokens of a batch, without end
    tokens."""

    logits_NV: Tensor
    labels_N: Tensor
    row_N: Tensor

    def mean(self, value_N: Tensor, rows: int) -> list[float]:
        """The mean over the tokens of each row; 0 for a row without tokens."""
        total_B = torch.zeros(rows, dtype=torch.float64, device=value_N.device)
        total_B.index_add_(0, self.row_N, value_N.double())
        count_B = torch.bincount(self.row_N, minlength=rows)
        means: list[float] = (total_B / count_B.clamp_min(1)).tolist()
        return means


@torch.no_grad()
def teacher_forced_accuracy(
    edited: EditedModel,
    probes: Sequence[EncodedEdit],
    route: Route,
    filled: Prefill | None = None,
) -> tuple[list[float], list[float]]:
    """Share of each probe's target tokens (without the end token) that are the top-1 next token, in
    the bare base and under the route.

    `filled` is the prefill of the same prompts; its cache is reused where experts act on the last
    prompt token only.
    """
    accuracies = []
    for tokens in _target_tokens(edited, probes, route, filled):
        hit_N = (tokens.logits_NV.argmax(-1) == tokens.labels_N).float()
        accuracies.append(tokens.mean(hit_N, len(probes)))
    return accuracies[0], accuracies[1]


@torch.no_grad()
def teacher_forced_loss(
    edited: EditedModel, probes: Sequence[EncodedEdit], route: Route
) -> list[float]:
    """Mean negative log-likelihood (nats per token) of each probe's target under the route, without
    the end token. Its exponential is the perplexity."""
    *_, tokens = _target_tokens(edited, probes, route, None)
    dtype = torch.promote_types(tokens.logits_NV.dtype, torch.float32)
    nll_N = functional.cross_entropy(tokens.logits_NV.to(dtype), tokens.labels_N, reduction="none")
    return tokens.mean(nll_N, len(probes))


def _target_tokens(
    edited: EditedModel, probes: Sequence[EncodedEdit], route: Route, filled: Prefill | None
) -> Iterator[_TargetTokens]:
    """The target tokens in the bare base, then under the route."""
    reused = filled if edited.bank.span == "last" else None
    cache, shared = (reused.cache, reused.batch.shared) if reused else (None, 0)
    batch = pad_edits(probes, edited.pad_id, route.expert_B.device, shared)
    split = split_edits(edited.model, edited.layer, batch, cache)
    start = 0 if cache or edited.bank.span == "all" else batch.prompt_length - 1
    labels_BS = batch.labels_BS
    counted_BS = torch.zeros_like(labels_BS, dtype=torch.bool)
    counted_BS[:, :-1] = labels_BS[:, 1:] != IGNORED  # the end token of a row is not counted
    row_N = counted_BS.nonzero()[:, 0]
    for y_BSD in (split.y_BSD, _routed_output(edited, split, route, start)):
        h_BSD = split.above(edited.model, edited.layer, y_BSD)
        h_ND = h_BSD[:, -labels_BS.shape[1] :][counted_BS]
        yield _TargetTokens(run_head(edited.model, h_ND), labels_BS[counted_BS], row_N)


def _routed_output(edited: EditedModel, split: Split, route: Route, start: int) -> Tensor:
    """y_BSD with experts applied to routed rows, from position `start` of the split on."""
    if route.is_base:
        return split.y_BSD
    rows_R = route.rows_R
    y_BSD = split.y_BSD.clone()
    y_BSD[rows_R, start:] = edited.bank.apply(
        split.x_BSF[rows_R, start:], split.y_BSD[rows_R, start:], route.expert_B[rows_R]
    )
    return y_BSD
