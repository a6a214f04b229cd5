"""Answers of an edited model to probes, in the same batches for every method.

Beam search decodes as in the paper: 4 beams, repetition penalty 1.1 (arXiv 2404.02699).
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from scen.benchmark.editors.scen_methods import Edited, Progress
from scen.evaluation.probes import Probe
from scen.evaluation.run_eval import (
    EvalLimits,
    ProbeRow,
    answer_rows,
    encode_probe,
    encode_turns,
    force_rows,
    order_probes,
    row_logits,
    row_text,
)
from scen.model.base import Base
from scen.model.batch import cache_argument, pad_prompts
from scen.model.decode import EditedModel, copy_cache
from scen.model.route import Route
from scen.records import EncodedPrompt, digest_bytes


@dataclass(frozen=True)
class ProbeAnswer:
    """The free answer to a probe. `teacher_forced` is the teacher-forced accuracy over the target
    tokens; `digest` fingerprints all logits of the answer, for probes without a target;
    `extra_tokens` is the number of prompt tokens added by the method."""

    text: str
    routed_to: str | None
    score: float
    teacher_forced: float | None
    digest: str | None
    extra_tokens: int


def ask_probes(
    base: Base,
    edited: Edited,
    probes: Sequence[Probe],
    folds: Sequence[int],
    limits: EvalLimits,
    progress: Progress = lambda _: None,
) -> list[ProbeAnswer]:
    """The answer to each probe. `folds[i]` is the fold of the edit that probe i is about.

    Probes with and without a target are never in the same batch, so that asking one kind alone
    gives the same answers.
    """
    order = order_probes(base, probes, limits)
    answers: dict[int, ProbeAnswer] = {}
    for fold, has_target in itertools.product(sorted(set(folds)), (True, False)):
        group = [i for i in order if (folds[i], probes[i].target is not None) == (fold, has_target)]
        for begin in range(0, len(group), limits.batch_size):
            batch = group[begin : begin + limits.batch_size]
            rows = [_encode(base, i, probes[i], limits) for i in batch]
            answers |= _ask_rows(base, edited, edited.model(fold), rows)
            progress(len(rows))
    return [answers[i] for i in range(len(probes))]


def _encode(base: Base, index: int, probe: Probe, limits: EvalLimits) -> ProbeRow:
    """A probe as tokens. Unlike in an evaluation, an answer may be much longer than its target: a
    model with the fact in its context may wrap it in a sentence."""
    row = encode_probe(base, index, probe, limits)
    return row if probe.target is None else replace(row, budget=limits.max_new_tokens)


def _ask_rows(
    base: Base, edited: Edited, model: EditedModel, rows: list[ProbeRow]
) -> dict[int, ProbeAnswer]:
    """The answers of a batch. Rows with a rewritten prompt are answered in a separate batch, the
    others in the same batch as for the bare base."""
    rewritten = [replace(row, prompt=_rewritten(base, edited, row.probe)) for row in rows]
    changed = [new for new, old in zip(rewritten, rows, strict=True) if new.prompt != old.prompt]
    answers = _ask(base, edited, model, rows) if len(changed) < len(rows) else {}
    if changed:
        lengths = {row.index: len(row.prompt.ids) for row in rows}
        for index, result in _ask(base, edited, model, changed).items():
            new = next(row for row in changed if row.index == index)
            answers[index] = replace(result, extra_tokens=len(new.prompt.ids) - lengths[index])
    return answers


def _rewritten(base: Base, edited: Edited, probe: Probe) -> EncodedPrompt:
    """A probe's turns, with the last message as rewritten by the method."""
    return encode_turns(base, replace(probe, prompt=edited.rewrite(probe.prompt)))


def _ask(
    base: Base, edited: Edited, model: EditedModel, rows: list[ProbeRow]
) -> dict[int, ProbeAnswer]:
    # Whole prompts, whatever the method: the logits of all methods are compared bit by bit.
    filled = model.prefill(pad_prompts([row.prompt for row in rows], base.pad_id, base.device))
    decoded = answer_rows(model, filled, rows, model.route(filled))
    teacher_forced = force_rows(model, filled, rows, decoded.route)
    return {
        row.index: ProbeAnswer(
            text=row_text(base, decoded, i, row),
            routed_to=edited.name(int(decoded.route.expert_B[i])),
            score=float(decoded.route.score_B[i]),
            teacher_forced=teacher_forced[i][1],
            digest=_digest(row_logits(decoded, i, row)) if row.probe.target is None else None,
            extra_tokens=0,
        )
        for i, row in enumerate(rows)
    }


def _digest(logits_SV: Tensor) -> str:
    return digest_bytes(logits_SV.float().contiguous().cpu().numpy().tobytes())


BEAMS, PENALTY = 4, 1.1


def beam_answers(
    base: Base,
    edited: Edited,
    prompts: Sequence[str],
    folds: Sequence[int],
    limits: tuple[int, int],
    progress: Progress = lambda _: None,
) -> list[str]:
    """The beam-search answers to prompts; `limits` are (prompts per batch, new tokens per
    answer)."""
    encode = base.template.encode_prompt
    encoded = [encode(edited.rewrite(prompt)) for prompt in prompts]
    order = sorted(range(len(encoded)), key=lambda i: (folds[i], len(encoded[i].ids)))
    answers: dict[int, str] = {}
    for fold in sorted(set(folds)):
        group = [i for i in order if folds[i] == fold]
        for begin in range(0, len(group), limits[0]):
            rows = group[begin : begin + limits[0]]
            model = edited.model(fold)
            tokens = search_beams(model, [encoded[i] for i in rows], limits[1])
            texts = [base.template.decode(row) for row in tokens]
            answers |= dict(zip(rows, texts, strict=True))
            progress(len(rows))
    return [answers[i] for i in range(len(prompts))]


@torch.no_grad()
def search_beams(
    edited: EditedModel, prompts: Sequence[EncodedPrompt], max_new_tokens: int
) -> list[list[int]]:
    """The tokens of the best beam of each prompt, without the stop token, by `generate` of
    transformers. All beams of a prompt share its route."""
    batch = pad_prompts(prompts, edited.pad_id, edited.model.device)
    filled = edited.prefill(batch)
    route = _route_of_beams(edited.route(filled))
    options: dict[str, Any] = {}
    if edited.bank.span == "last":  # the cache of the other prompt tokens is reused
        cache = copy_cache(filled.cache)
        cache.crop(-1)
        cache.batch_repeat_interleave(BEAMS)
        options |= cache_argument(cache)
    with edited.linear.use(edited.bank, route):
        out_BT = edited.model.generate(
            input_ids=batch.ids_BP,
            attention_mask=batch.mask_BP.long(),
            num_beams=BEAMS,
            repetition_penalty=PENALTY,
            do_sample=False,
            max_new_tokens=max_new_tokens,
            eos_token_id=sorted(edited.stop_ids),
            pad_token_id=edited.pad_id,
            **options,
        )
    rows = out_BT[:, batch.ids_BP.shape[1] :].tolist()
    return [_before_stop(row, edited.stop_ids) for row in rows]


def _route_of_beams(route: Route) -> Route:
    rows = torch.arange(len(route.expert_B), device=route.expert_B.device)
    return route.take(rows.repeat_interleave(BEAMS))


def _before_stop(row: list[int], stop_ids: frozenset[int]) -> list[int]:
    return row[: next((i for i, token in enumerate(row) if token in stop_ids), None)]
