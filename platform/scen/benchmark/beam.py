"""Beam search, as the paper decodes: 4 beams, repetition penalty 1.1 (arXiv 2404.02699)."""

from collections.abc import Sequence
from typing import Any

import torch

from scen.benchmark.edited import Edited, Progress
from scen.model.base import Base
from scen.model.batch import pad_prompts
from scen.model.decode import EditedModel, copy_cache
from scen.model.route import Route
from scen.records import EncodedPrompt

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
