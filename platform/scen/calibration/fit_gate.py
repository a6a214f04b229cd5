"""The gate: questions of a router set paired with candidate edits, and the fit on such pairs of an
edit's own questions against those of other edits, near misses, tasks and unrelated prompts.

Suffixes: N questions, M spans of all questions, P pairs, X pairs before selection, E candidates of
a question (an edit and a span), K places, F dimensions of a raw key, C of a compact key or classes,
D of a manner, V or I inputs of the gate, L word features.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import softplus

from scen.calibration.fit_encoder import (
    RouterKeys,
    question_rows,
    texts_by_edit,
    thinned,
    used_questions,
    within_class,
)
from scen.calibration.router_set import ASKS
from scen.data.asking import SURFACE_WAYS, wordings
from scen.model.surface import MOST_SPANS
from scen.routing.gate import Evidence, Gate, around, manner_begin
from scen.routing.keys import KeyEncoder, Whitening
from scen.routing.words import fit_rarity

CANDIDATES = 24
"""Pairs per question on which the gate is fitted, in addition to those of its own edit."""

MANNER = 24
"""Dimensions of a message's manner per place, zero-padded: one per kind of task, one for all tasks,
and one per way of asking that puts words around the question."""

_CLASSES = {
    "prompt": 0,
    "near_miss": 1,
    "made_near_miss": 2,
    "unrelated": 3,
    "asked": 4,
    "task": 5,
    "subject_task": 6,
    "rephrase": 7,
    "namesake": 8,
}
CLASS_WEIGHTS = {
    _CLASSES["prompt"]: 0.3,
    _CLASSES["task"]: 0.5,
    _CLASSES["subject_task"]: 0.3,
    _CLASSES["namesake"]: 2.0,
}
"""Below 1 for easy classes: weight on them costs recall on orders, frames and quotations. Above 1
for namesakes: a large store has many of each edit."""

_BATCH = 128
_SPREAD = 1 / 3  # standard deviation of the manner, to match that of cosines
_NOISE = 0.2  # on the manner: without it, a gate fitted on a few hundred wordings memorises them


@dataclass(frozen=True)
class GatePairs:
    """N prompts, each with E candidates (an edit and one of the prompt's spans).

    `sim_NEV` are the inputs of the gate, `own_NE` (bool) marks candidates with the edit that the
    prompt asks for, `class_N` (int64) is the prompt's class, over which the loss is balanced, and
    `real_NE` (bool) is False at padding (None: no padding).
    """

    sim_NEV: Tensor
    own_NE: Tensor
    class_N: Tensor
    real_NE: Tensor | None = None

    def take(self, rows: Tensor) -> "GatePairs":
        """These prompts."""
        real_NE = None if self.real_NE is None else self.real_NE[rows]
        return GatePairs(self.sim_NEV[rows], self.own_NE[rows], self.class_N[rows], real_NE)

    def views(self, columns: Tensor) -> "GatePairs":
        """The same with only these inputs."""
        return GatePairs(self.sim_NEV[..., columns], self.own_NE, self.class_N, self.real_NE)

    def first(self, count: int) -> "GatePairs":
        """The same with only the first `count` candidates of each prompt."""
        real_NE = None if self.real_NE is None else self.real_NE[:, :count]
        return GatePairs(self.sim_NEV[:, :count], self.own_NE[:, :count], self.class_N, real_NE)

    def best(self, gate: Gate) -> tuple[Tensor, Tensor]:
        """own_N and other_N: the best scores of the edit that a prompt asks for and of all others;
        -inf if there is none."""
        parts = [gate(part.float()) for part in self.sim_NEV.split(_SCORED)]
        score_NE = torch.cat(parts)
        if self.real_NE is not None:
            score_NE = score_NE.masked_fill(~self.real_NE, -torch.inf)
        own_N = score_NE.masked_fill(~self.own_NE, -torch.inf).amax(1)
        return own_N, score_NE.masked_fill(self.own_NE, -torch.inf).amax(1)


@dataclass(frozen=True)
class Pairs:
    """Pairs for the gate, and the edit of each candidate (`index_NE`, -1: none)."""

    gate: GatePairs
    index_NE: Tensor


def fit_evidence(keys: RouterKeys, used_E: Tensor, shrinkage: float) -> Evidence:
    """Discriminants between a question and a task about it, on the last token and on the words
    around a span; and the rarity of words."""
    spans, asked_N = keys.all_spans(), question_rows(keys)
    share_N, key_NKF = spans.share_M[asked_N], spans.key_MKF[asked_N]
    around_NKF = around(key_NKF, keys.key_NKF, share_N, keys.places)
    class_N, tasks = _kinds_of_messages(keys)
    known_N = used_questions(keys, used_E) & ~keys.of("subject_task", "unrelated")
    has_words_N = share_N < 1
    means, matrices, plain = [], [], []
    for place, key_NF in zip(keys.places, around_NKF.unbind(1), strict=True):
        used_N = known_N if place.kind == "last" else known_N & has_words_N
        mean_F, matrix_FD = _manner(key_NF[used_N], class_N[used_N], tasks, shrinkage)
        means.append(mean_F)
        matrices.append(matrix_FD)
        bare_ND = (key_NF[keys.of("prompt")] - mean_F) @ matrix_FD
        plain.append(bare_ND.mean(0) if place.kind == "last" else torch.zeros(MANNER))
    rarity_H = fit_rarity(texts_by_edit(keys, used_E, asked_N), keys.vocabulary)
    return Evidence(torch.stack(means), torch.stack(matrices), torch.cat(plain), rarity_H)


def _kinds_of_messages(keys: RouterKeys) -> tuple[Tensor, int]:
    """class_N: 0 for bare questions, then 1, 2, ... for kinds of tasks and for ways of asking with
    words around the question; and the number of kinds of tasks.

    The numbers of the packaged kinds do not depend on which of them there are, so that gates can be
    used with other questions.
    """
    packaged = wordings("fit")

    def names(kind: str, known: Sequence[str]) -> list[str]:
        sources = {q.source for q in keys.about.questions if q.kind == kind}
        return sorted({*sources, *known} - set(SURFACE_WAYS))

    about_questions = [task for task in packaged.tasks if task.startswith("task:")]
    tasks, ways = names("task", about_questions), names("asked", packaged.ways)
    kinds = [("task", name) for name in tasks] + [("asked", name) for name in ways]
    number = {kind: i + 1 for i, kind in enumerate(kinds[: MANNER - 1])}
    class_N = torch.tensor([number.get((q.kind, q.source), 0) for q in keys.about.questions])
    return class_N, len(tasks)


def _manner(key_NF: Tensor, class_N: Tensor, tasks: int, shrinkage: float) -> tuple[Tensor, Tensor]:
    """mean_F and matrix_FD: Fisher discriminants from all questions towards each kind of task
    (classes 1 to `tasks`), towards all tasks, and towards each way of asking (classes above);
    zeros if there is only one class.

    Each dimension has a fixed meaning, so that a gate fitted with one set of discriminants can be
    used with another.
    """
    width_F = key_NF.shape[1]
    if len(class_N.unique()) < 2:
        return torch.zeros(width_F), torch.zeros(width_F, MANNER)
    whitening = Whitening.fit(thinned(key_NF[:, None]), shrinkage)
    white_NF = whitening(key_NF[:, None])[:, 0]
    is_task_N = (class_N >= 1) & (class_N <= tasks)
    task_N = class_N.where(is_task_N, 0)
    kinds = [class_N == c for c in range(1, MANNER)]
    toward = [
        white_NF[kind].mean(0) - white_NF[~is_task_N].mean(0)
        for kind in (*kinds[:tasks], is_task_N, *kinds[tasks:])
    ]
    toward_DF = torch.stack(toward).nan_to_num()  # NaN: a kind without questions
    view_FD = torch.linalg.solve(within_class(white_NF, task_N), toward_DF.T)
    matrix_FD = whitening.compose(view_FD[None])[0]
    mean_F = key_NF[~is_task_N].float().mean(0)
    spread_D = ((key_NF - mean_F) @ matrix_FD).std(0).clamp_min(1e-6)
    scaled_FD = matrix_FD * (_SPREAD / spread_D)
    return mean_F, torch.nn.functional.pad(scaled_FD, (0, MANNER - len(spread_D)))


def input_noise(inputs: int, views: int) -> Tensor:
    """noise_I: the standard deviation of the noise on each of `inputs` gate inputs while a gate is
    fitted, with `views` similarities per place."""
    noise_I = torch.zeros(inputs)
    noise_I[manner_begin(inputs, views, MANNER) :] = _NOISE
    return noise_I


def pair_up(
    keys: RouterKeys, encoder: KeyEncoder, evidence: Evidence | None, rows_N: Tensor
) -> Pairs:
    """These questions paired with their nearest edits by each span; their own edit is always
    included."""
    count, spans = keys.about.num_edits, keys.all_spans()
    code_EKC = encoder(keys.key_NKF[:count])
    search_ED = encoder.search_key(code_EKC)
    first_N = (spans.span_M == 0).nonzero().squeeze(1)
    end_N = torch.cat([first_N[1:], torch.tensor([len(spans.row_M)])])
    edits = [spans.texts[i] for i in first_N[:count].tolist()]
    own_N = keys.edit_N.masked_fill(~keys.of(*ASKS), -1)
    columns: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for rows in rows_N.split(_BATCH):
        batch = _span_rows(first_N[rows], end_N[rows])
        taken = spans.take(batch.index_M)
        part = replace(taken, key_MKF=taken.key_MKF.float(), row_M=batch.place_M)
        code_MKC = encoder(part.key_MKF)
        near_ME = encoder.search_key(code_MKC) @ search_ED.T
        chosen = _candidates(near_ME, batch.place_M, own_N[rows])
        sim_P1V = encoder.compare(code_MKC[chosen.span_P], code_EKC[chosen.edit_P][:, None])
        x_PI = sim_P1V[:, 0]
        if evidence is not None:
            texts = [part.texts[i] for i in chosen.span_P.tolist()]
            words_P1L = evidence.words(texts, [[edits[e]] for e in chosen.edit_P.tolist()])
            manner_MG = evidence.manner(part, keys.places)
            share_P, manner_PG = part.share_M[chosen.span_P], manner_MG[chosen.span_P]
            x_PI = evidence.inputs(sim_P1V, words_P1L, share_P, manner_PG)[:, 0]
        columns.append(_padded(x_PI, chosen, own_N[rows], len(rows)))
    sim_NEI, own_NE, real_NE, index_NE = (torch.cat(parts) for parts in zip(*columns, strict=True))
    class_N = torch.tensor([_CLASSES[question.kind] for question in keys.about.questions])
    return Pairs(GatePairs(sim_NEI, own_NE, class_N[rows_N], real_NE), index_NE)


@dataclass(frozen=True)
class _SpanRows:
    """Spans of a batch of questions: their index among all spans, and the question in the batch."""

    index_M: Tensor
    place_M: Tensor


@dataclass(frozen=True)
class _Chosen:
    """Pairs of a span and an edit, sorted by question (`place_P`)."""

    span_P: Tensor
    edit_P: Tensor
    place_P: Tensor


def _span_rows(first_N: Tensor, end_N: Tensor) -> _SpanRows:
    count_N = end_N - first_N
    place_M = torch.arange(len(first_N)).repeat_interleave(count_N)
    within_M = torch.arange(len(place_M)) - (count_N.cumsum(0) - count_N)[place_M]
    return _SpanRows(first_N[place_M] + within_M, place_M)


def _candidates(near_ME: Tensor, place_M: Tensor, own_N: Tensor) -> _Chosen:
    """The CANDIDATES nearest pairs of each question, and its own edit with every span."""
    spans, edits = near_ME.shape
    own_M = own_N[place_M]
    is_own_ME = torch.arange(edits) == own_M[:, None]
    best = near_ME.masked_fill(is_own_ME, -torch.inf).topk(min(CANDIDATES, edits), 1)
    span_X = torch.arange(spans).repeat_interleave(best.indices.shape[1])
    score_X, edit_X = best.values.flatten(), best.indices.flatten()
    # The best pairs of each question: sort by descending score, then stably by question.
    order_X = score_X.argsort(descending=True, stable=True)
    order_X = order_X[place_M[span_X[order_X]].argsort(stable=True)]
    place_X = place_M[span_X[order_X]]
    count_N = place_X.bincount(minlength=len(own_N))
    rank_X = torch.arange(len(place_X)) - (count_N.cumsum(0) - count_N)[place_X]
    kept_X = order_X[(rank_X < CANDIDATES) & score_X[order_X].isfinite()]
    asks_M = (own_M >= 0).nonzero().squeeze(1)
    span_P = torch.cat([asks_M, span_X[kept_X]])
    edit_P = torch.cat([own_M[asks_M], edit_X[kept_X]])
    order_P = place_M[span_P].argsort(stable=True)
    return _Chosen(span_P[order_P], edit_P[order_P], place_M[span_P[order_P]])


def _padded(
    x_PI: Tensor, chosen: _Chosen, own_N: Tensor, rows: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """sim_NEI float16, own_NE, real_NE and index_NE, padded to the maximum number of candidates."""
    count_N = chosen.place_P.bincount(minlength=rows)
    rank_P = torch.arange(len(x_PI)) - (count_N.cumsum(0) - count_N)[chosen.place_P]
    width = CANDIDATES + MOST_SPANS
    sim_NEI = torch.zeros(rows, width, x_PI.shape[1], dtype=torch.float16)
    index_NE = torch.full((rows, width), -1)
    sim_NEI[chosen.place_P, rank_P] = x_PI.half()
    index_NE[chosen.place_P, rank_P] = chosen.edit_P
    real_NE = index_NE >= 0
    return sim_NEI, (index_NE == own_N[:, None]) & real_NE, real_NE, index_NE


_SAMPLED = 128  # prompts per class and step
_RATE, _DEEP_RATE, _TUNING_RATE, _DECAY = 1e-2, 3e-3, 3e-4, 1e-2
_SCORED = 1024  # prompts scored at a time
_NEVER = -1e4  # masks a candidate; finite, so that gradients are
_FIRST = 0.5  # weight of the ranking term (own edit above others) relative to the log-odds term


def join_pairs(parts: Sequence[GatePairs]) -> GatePairs:
    """Concatenate several sets of prompts, padded to the same number of candidates."""
    width = max(p.own_NE.shape[1] for p in parts)
    filled = [_widened(p, width) for p in parts]
    return GatePairs(
        torch.cat([p.sim_NEV for p in filled]),
        torch.cat([p.own_NE for p in filled]),
        torch.cat([p.class_N for p in filled]),
        torch.cat([_real(p) for p in filled]),
    )


def fit_gate(  # noqa: PLR0913
    pairs: GatePairs,
    steps: int,
    seed: int,
    hidden: int = 32,
    *,
    is_deep: bool = False,
    weights: Mapping[int, float] | None = None,
    noise_V: Tensor | None = None,
    start: Gate | None = None,
) -> Gate:
    """Train a gate; deterministic for a given seed. With `start` that gate is tuned, gently.

    The loss raises the log-odds of own edits (by their best span), lowers the soft maximum over a
    prompt's other candidates (one wrong edit is enough to fail), and ranks own edits above others.
    `weights` are class weights, 1 by default. `is_deep`: two hidden layers. `noise_V`: standard
    deviation of the noise on each input, sampled per prompt.
    """
    gate = start or Gate.initial(pairs.sim_NEV.shape[-1], hidden, seed, is_deep=is_deep)
    labels = pairs.class_N.unique()
    classes = [(pairs.class_N == c).nonzero().squeeze(1) for c in labels]
    weight_C = torch.tensor([(weights or {}).get(int(c), 1.0) for c in labels])
    gate = Gate.from_tensors({name: t.clone() for name, t in gate.tensors().items()})
    parameters = [t.requires_grad_() for t in gate.tensors().values()]
    rate = _TUNING_RATE if start else _DEEP_RATE if is_deep else _RATE
    adam = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0 if start else _DECAY)
    schedule = _schedule(adam, rate, steps, is_deep=is_deep and start is None)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        sampled = [rows[_sample(len(rows), generator)] for rows in classes]
        batch = pairs.take(torch.cat(sampled))
        real_NE = _real(batch)
        x_PV = batch.sim_NEV[real_NE].float()
        if noise_V is not None:
            noise_NV = noise_V * torch.randn(len(real_NE), len(noise_V), generator=generator)
            x_PV += noise_NV.repeat_interleave(real_NE.sum(1), 0)
        score_NE = torch.full(real_NE.shape, _NEVER).masked_scatter(real_NE, gate(x_PV))
        loss = _loss(score_NE, batch, [len(rows) for rows in sampled], weight_C)
        adam.zero_grad()
        loss.backward()
        adam.step()
        schedule.step()
    return Gate.from_tensors({name: t.detach() for name, t in gate.tensors().items()})


def _schedule(
    adam: torch.optim.AdamW, rate: float, steps: int, *, is_deep: bool
) -> torch.optim.lr_scheduler.LRScheduler:
    """Learning-rate decay to zero; two layers also need a warm-up, or they diverge."""
    if is_deep:
        return torch.optim.lr_scheduler.OneCycleLR(adam, rate, total_steps=steps)
    return torch.optim.lr_scheduler.LinearLR(adam, 1.0, 0.0, total_iters=steps)


def _loss(score_NE: Tensor, pairs: GatePairs, sizes: Sequence[int], weight_C: Tensor) -> Tensor:
    """The loss of prompts sorted by class, with `sizes` prompts per class."""
    others_N = score_NE.masked_fill(pairs.own_NE | ~_real(pairs), _NEVER).logsumexp(1)
    own_N = score_NE.masked_fill(~pairs.own_NE, _NEVER).amax(1)
    asks_N = pairs.own_NE.any(1)
    negatives, positives, positive_weights = [], [], []
    for weight, others, own, asks in zip(
        weight_C, others_N.split(sizes), own_N.split(sizes), asks_N.split(sizes), strict=True
    ):
        negatives.append(softplus(others).mean())
        if bool(asks.any()):
            ranking = softplus(others[asks] - own[asks])
            positives.append((softplus(-own[asks]) + _FIRST * ranking).mean())
            positive_weights.append(weight)
    return _mean(negatives, weight_C) + _mean(positives, torch.stack(positive_weights))


def _mean(losses: list[Tensor], weight_C: Tensor) -> Tensor:
    return (torch.stack(losses) * weight_C).sum() / weight_C.sum()


def _real(pairs: GatePairs) -> Tensor:
    return torch.ones_like(pairs.own_NE) if pairs.real_NE is None else pairs.real_NE


def _widened(pairs: GatePairs, width: int) -> GatePairs:
    """The same, padded to `width` candidates."""
    more = width - pairs.own_NE.shape[1]
    pad = torch.nn.functional.pad
    return GatePairs(
        pad(pairs.sim_NEV, (0, 0, 0, more)),
        pad(pairs.own_NE, (0, more)),
        pairs.class_N,
        pad(_real(pairs), (0, more)),
    )


def _sample(count: int, generator: torch.Generator) -> Tensor:
    return torch.randint(count, (min(_SAMPLED, count),), generator=generator)
