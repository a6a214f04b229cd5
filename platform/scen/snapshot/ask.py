"""Answers of one version of an edited model, and the likeliest edits behind each route."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from scen.model.base import Base
from scen.model.batch import pad_prompts
from scen.model.decode import EditedModel, answer
from scen.model.keys import SpanKeys, read_span_keys
from scen.model.prefill import Prefill
from scen.model.route import NeuronBank, Route, SigmoidNeurons
from scen.records import EncodedPrompt
from scen.routing.explain import explain_spans
from scen.routing.neurons import KeyNeurons


@dataclass(frozen=True, slots=True)
class LikelyEdit:
    """An edit that a prompt may be about: its score, the most similar `span` of the message, and
    the cosine similarities behind the score by view (mean@6.0: the first view at place mean@6).
    Method scen has only the score."""

    edit_id: str
    score: float
    span: str = ""
    similarities: Mapping[str, float] = field(default_factory=dict)


@torch.no_grad()
def likely_edits(
    edited: EditedModel, filled: Prefill, row: int, edit_ids: Sequence[str], count: int
) -> tuple[LikelyEdit, ...]:
    """The likeliest `count` edits of one row of a batch, best first."""
    neurons = edited.neurons
    if len(neurons) == 0 or count == 0:
        return ()
    if isinstance(neurons, SigmoidNeurons):
        return likely_by_keys(neurons, filled.last(neurons.layer)[row, None], edit_ids, count)
    assert isinstance(neurons, KeyNeurons)
    keys = read_span_keys(filled, neurons.router.encoder.places)
    own = keys.take((keys.row_M == row).nonzero().squeeze(1))
    own = replace(own, row_M=torch.zeros_like(own.row_M))  # a batch of this prompt alone
    return likely_by_keys(neurons, own, edit_ids, count)


def likely_by_keys(
    neurons: NeuronBank, keys: SpanKeys | Tensor, edit_ids: Sequence[str], count: int
) -> tuple[LikelyEdit, ...]:
    """As `likely_edits`, for one prompt whose keys were read: those of its spans, or with method
    scen h_1F, the `down_proj` input at its last token. Needs at least one edit."""
    if isinstance(keys, Tensor):
        assert isinstance(neurons, SigmoidNeurons)
        best = neurons.score_last(keys)[0].topk(min(count, len(neurons)))
        return tuple(
            LikelyEdit(edit_ids[i], score)
            for i, score in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        )
    assert isinstance(neurons, KeyNeurons)
    candidates = explain_spans(neurons.choose_spans(keys), keys.texts, neurons.router, count)
    return tuple(LikelyEdit(edit_ids[c.index], c.score, c.span, c.similarities) for c in candidates)


MAX_NEW_TOKENS = 64
BATCH_SIZE = 32


@dataclass(frozen=True, slots=True)
class Answer:
    """The greedy answer of one version to one prompt.

    `edit_id` is the edit that answered, None where the base did. `nearest_edit` is the top-1
    edit, whether it answered or not, and `score` its score; both are None in a version without
    edits. An edit answers if its score is above `threshold`. Scores are logits of the calibrated
    gate, mean cosines if the base has no profile, or sigmoid scores with method scen. `version` is
    the ledger version. `base_answer` and `likely_edits` (best first) are only set on request.
    """

    prompt: str
    answer: str
    edit_id: str | None
    nearest_edit: str | None
    score: float | None
    threshold: float
    version: int
    base_answer: str | None = None
    likely_edits: tuple[LikelyEdit, ...] = ()


@dataclass(frozen=True)
class VersionModel:
    """One version of a store as a model. `edit_ids` name the experts of `edited`, in order."""

    base: Base
    edited: EditedModel
    edit_ids: Sequence[str]
    version: int
    threshold: float

    def ask(
        self,
        prompt: str,
        max_new_tokens: int = MAX_NEW_TOKENS,
        *,
        base_answer: bool = False,
        num_likely: int = 0,
    ) -> Answer:
        """The answer to one prompt, in a batch of its own. Raises ConfigError if the prompt has no
        tokens."""
        encoded = [self.base.template.encode_prompt(prompt.strip())]
        return self._ask([prompt], encoded, max_new_tokens, base_answer, num_likely)[0]

    def ask_all(
        self,
        prompts: Sequence[str],
        max_new_tokens: int = MAX_NEW_TOKENS,
        *,
        base_answer: bool = False,
        num_likely: int = 0,
    ) -> list[Answer]:
        """The answers in the order of the prompts, computed in batches of similar length. In
        bfloat16, rounding may differ from that of a single prompt. Raises as `ask` does."""
        encoded = [self.base.template.encode_prompt(prompt.strip()) for prompt in prompts]
        order = sorted(range(len(prompts)), key=lambda i: len(encoded[i].ids))
        answers: dict[int, Answer] = {}
        for begin in range(0, len(order), BATCH_SIZE):
            indices = order[begin : begin + BATCH_SIZE]
            texts, rows = [prompts[i] for i in indices], [encoded[i] for i in indices]
            batch = self._ask(texts, rows, max_new_tokens, base_answer, num_likely)
            answers.update(zip(indices, batch, strict=True))
        return [answers[i] for i in range(len(prompts))]

    def _ask(
        self,
        prompts: Sequence[str],
        encoded: Sequence[EncodedPrompt],
        max_new_tokens: int,
        base_answer: bool,
        num_likely: int,
    ) -> list[Answer]:
        """The answers of one batch."""
        base, edited = self.base, self.edited
        filled = edited.prefill(pad_prompts(encoded, base.pad_id, base.device))
        route = edited.route(filled)
        texts = self._decode(answer(edited, filled, route, max_new_tokens).tokens)
        plain: Sequence[str | None] = [None] * len(prompts)
        if base_answer:
            unedited = Route.base(len(prompts), base.device)
            plain = self._decode(answer(edited, filled, unedited, max_new_tokens).tokens)
        answers = []
        for row, prompt in enumerate(prompts):
            expert, nearest = int(route.expert_B[row]), int(route.nearest_B[row])
            answers.append(
                Answer(
                    prompt=prompt,
                    answer=texts[row],
                    edit_id=self.edit_ids[expert] if expert >= 0 else None,
                    nearest_edit=self.edit_ids[nearest] if nearest >= 0 else None,
                    score=float(route.score_B[row]) if nearest >= 0 else None,
                    threshold=self.threshold,
                    version=self.version,
                    base_answer=plain[row],
                    likely_edits=likely_edits(edited, filled, row, self.edit_ids, num_likely),
                )
            )
        return answers

    def _decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        return [self.base.template.decode(list(tokens)) for tokens in rows]
