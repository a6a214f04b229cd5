"""Ask a method's edited model the probes, in the same batches for every method.

Beam search decodes as the paper does: 4 beams, repetition penalty 1.1 (arXiv 2404.02699).
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from scen.benchmark.editors.scen_methods import Edited, Progress
from scen.evaluation.probes import Probe
from scen.evaluation.run_eval import EvalLimits, ProbeRow, encode_probe, encode_turns, order_probes
from scen.evaluation.teacher_forced import teacher_forced_accuracy
from scen.model.base import Base
from scen.model.batch import pad_prompts
from scen.model.decode import Decoded, EditedModel, answer, copy_cache
from scen.model.prefill import Prefill
from scen.model.route import Route
from scen.records import EncodedEdit, EncodedPrompt, digest_bytes


@dataclass(frozen=True)
class Said:
    """The free answer to a probe. `forced` is the share of target tokens that would be said next;
    `digest` names all logits of the answer, bit for bit, of a probe without target; `extra_tokens`
    is how much longer the prompt was made."""

    text: str
    routed_to: str | None
    score: float
    forced: float | None
    digest: str | None
    extra_tokens: int


def ask_probes(
    base: Base,
    edited: Edited,
    probes: Sequence[Probe],
    folds: Sequence[int],
    limits: EvalLimits,
    progress: Progress = lambda _: None,
) -> list[Said]:
    """What each probe is answered. `folds[i]` is the part of the edits that probe i is about.

    Probes with a target and those without are never in one batch, so that either may be asked
    without the other and find the same.
    """
    order = order_probes(base, probes, limits)
    found: dict[int, Said] = {}
    for fold, is_told in itertools.product(sorted(set(folds)), (True, False)):
        some = [i for i in order if (folds[i], probes[i].target is not None) == (fold, is_told)]
        for begin in range(0, len(some), limits.batch_size):
            picked = some[begin : begin + limits.batch_size]
            rows = [_encode(base, i, probes[i], limits) for i in picked]
            found |= _ask_rows(base, edited, edited.model(fold), rows)
            progress(len(rows))
    return [found[i] for i in range(len(probes))]


def _encode(base: Base, index: int, probe: Probe, limits: EvalLimits) -> ProbeRow:
    """A probe as tokens. Unlike in an evaluation, an answer may go on long past its target: a
    model that was told the fact may wrap it in a sentence."""
    row = encode_probe(base, index, probe, limits)
    return row if probe.target is None else replace(row, budget=limits.max_new_tokens)


def _ask_rows(
    base: Base, edited: Edited, model: EditedModel, rows: list[ProbeRow]
) -> dict[int, Said]:
    """A batch as it stands. Rows whose prompt is rewritten are asked beside it, so that the others
    stay in the batch in which the bare base is asked."""
    told = [replace(row, prompt=_rewritten(base, edited, row.probe)) for row in rows]
    changed = [new for new, old in zip(told, rows, strict=True) if new.prompt != old.prompt]
    found = _ask(base, edited, model, rows) if len(changed) < len(rows) else {}
    if changed:
        lengths = {row.index: len(row.prompt.ids) for row in rows}
        for index, said in _ask(base, edited, model, changed).items():
            new = next(row for row in changed if row.index == index)
            found[index] = replace(said, extra_tokens=len(new.prompt.ids) - lengths[index])
    return found


def _rewritten(base: Base, edited: Edited, probe: Probe) -> EncodedPrompt:
    """A probe as the method puts it: its last message rewritten, behind the turns before it."""
    return encode_turns(base, replace(probe, prompt=edited.rewrite(probe.prompt)))


def _ask(base: Base, edited: Edited, model: EditedModel, rows: list[ProbeRow]) -> dict[int, Said]:
    batch = pad_prompts([row.prompt for row in rows], base.pad_id, base.device)
    filled = model.prefill(batch)
    route = model.route(filled)
    compare = any(row.probe.target is None for row in rows)
    budget = max(row.budget for row in rows)
    decoded = answer(model, filled, route, budget, keep_logits=compare)
    forced = _forced(model, filled, rows, decoded)
    return {
        row.index: Said(
            text=base.template.decode(decoded.tokens[i][: row.budget]),
            routed_to=edited.name(int(route.expert_B[i])),
            score=float(route.score_B[i]),
            forced=forced.get(i),
            digest=_digest(decoded, i, row) if row.probe.target is None else None,
            extra_tokens=0,
        )
        for i, row in enumerate(rows)
    }


def _forced(
    model: EditedModel, filled: Prefill, rows: list[ProbeRow], decoded: Decoded
) -> dict[int, float]:
    told = [i for i, row in enumerate(rows) if row.target]
    if not told:
        return {}
    edits = [EncodedEdit(rows[i].prompt, rows[i].target, 0) for i in told]
    route = decoded.route.take(torch.tensor(told, device=decoded.route.expert_B.device))
    reused = filled if len(told) == len(rows) else None
    return dict(zip(told, teacher_forced_accuracy(model, edits, route, reused)[1], strict=True))


def _digest(decoded: Decoded, index: int, row: ProbeRow) -> str:
    """Of the logits of as many tokens as the row may speak and does."""
    assert decoded.logits_BSV is not None
    tokens = decoded.tokens[index][: row.budget]
    spoken = min(len(tokens) + int(decoded.stopped[index]), row.budget)
    logits_SV = decoded.logits_BSV[index, :spoken]
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
    """The answers to prompts; `limits` are the prompts per batch and the new tokens per answer."""
    encode = base.template.encode_prompt
    told = [encode(edited.rewrite(prompt)) for prompt in prompts]
    order = sorted(range(len(told)), key=lambda i: (folds[i], len(told[i].ids)))
    found: dict[int, str] = {}
    for fold in sorted(set(folds)):
        some = [i for i in order if folds[i] == fold]
        for begin in range(0, len(some), limits[0]):
            rows = some[begin : begin + limits[0]]
            model = edited.model(fold)
            tokens = search_beams(model, [told[i] for i in rows], limits[1])
            texts = [base.template.decode(row) for row in tokens]
            found |= dict(zip(rows, texts, strict=True))
            progress(len(rows))
    return [found[i] for i in range(len(prompts))]


@torch.no_grad()
def search_beams(
    edited: EditedModel, prompts: Sequence[EncodedPrompt], max_new_tokens: int
) -> list[list[int]]:
    """The tokens of the best beam of each prompt, without the stop token (transformers' search).

    Each beam of a prompt has the prompt's route.
    """
    batch = pad_prompts(prompts, edited.pad_id, edited.model.device)
    filled = edited.prefill(batch)
    route = _spread(edited.route(filled))
    more: dict[str, Any] = {}
    if edited.bank.span == "last":  # all of the prompt but its last token is as it was
        cache = copy_cache(filled.cache)
        cache.crop(-1)
        cache.batch_repeat_interleave(BEAMS)
        more["cache"] = cache
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
            **more,
        )
    rows = out_BT[:, batch.ids_BP.shape[1] :].tolist()
    return [_before_stop(row, edited.stop_ids) for row in rows]


def _spread(route: Route) -> Route:
    rows = torch.arange(len(route.expert_B), device=route.expert_B.device)
    return route.take(rows.repeat_interleave(BEAMS))


def _before_stop(row: list[int], stop_ids: frozenset[int]) -> list[int]:
    return row[: next((i for i, token in enumerate(row) if token in stop_ids), None)]
