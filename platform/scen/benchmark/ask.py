"""Puts probes to what a method made of the base, in the same batches for every method."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from scen.benchmark.edited import Edited, Progress
from scen.evaluation.forced import teacher_forced_accuracy
from scen.evaluation.probes import Probe
from scen.evaluation.run_eval import (
    EvalLimits,
    ProbeRow,
    encode_probe,
    encode_turns,
    order_probes,
)
from scen.model.base import Base
from scen.model.batch import pad_prompts
from scen.model.decode import Decoded, EditedModel, answer
from scen.model.prefill import Prefill
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
