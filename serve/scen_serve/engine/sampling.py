"""Choosing the next token of a row from its logits."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from scen_serve.engine.request import Sampling, TokenLogprob


def new_generator(sampling: Sampling) -> torch.Generator | None:
    """The random numbers of one answer; None where it is greedy."""
    if sampling.temperature == 0:
        return None
    generator = torch.Generator()
    if sampling.seed is None:
        generator.seed()
    else:
        generator.manual_seed(sampling.seed)
    return generator


def adjust_logits(
    logits_V: Tensor,
    sampling: Sampling,
    prompt_ids: Sequence[int],
    output_ids: Sequence[int],
    stop_ids: frozenset[int],
) -> Tensor:
    """Logits after `logit_bias`, `min_tokens` and the penalties; the same tensor where none is set.

    As in vLLM: the repetition penalty counts tokens of prompt and answer, the other two those of
    the answer only.
    """
    if not sampling.adjusts_logits:
        return logits_V
    logits_V = logits_V.float().clone()
    for token_id, bias in sampling.logit_bias:
        logits_V[token_id] += bias
    if len(output_ids) < sampling.min_tokens:
        logits_V[sorted({*stop_ids, *sampling.stop_token_ids})] = -math.inf
    if sampling.repetition_penalty != 1:
        seen = torch.tensor(sorted({*prompt_ids, *output_ids}), device=logits_V.device)
        some = logits_V[seen]
        penalty = sampling.repetition_penalty
        logits_V[seen] = torch.where(some > 0, some / penalty, some * penalty)
    if output_ids and (sampling.frequency_penalty or sampling.presence_penalty):
        output = torch.tensor(output_ids, device=logits_V.device)
        used, counts = output.unique(return_counts=True)
        logits_V[used] -= sampling.frequency_penalty * counts + sampling.presence_penalty
    return logits_V


def choose_token(logits_V: Tensor, sampling: Sampling, generator: torch.Generator | None) -> int:
    """The most likely token, or one drawn after temperature, `min_p`, `top_k` and `top_p`, in this
    order."""
    if generator is None:
        return int(logits_V.argmax())
    # Relative to the largest: a tiny temperature would overflow otherwise.
    scaled_V = (logits_V.double().cpu() - logits_V.max().item()) / sampling.temperature
    if sampling.min_p > 0:
        scaled_V = scaled_V.masked_fill(scaled_V < math.log(sampling.min_p), -math.inf)
    if 0 < sampling.top_k < len(scaled_V):
        least = scaled_V.topk(sampling.top_k).values[-1]
        scaled_V = scaled_V.masked_fill(scaled_V < least, -math.inf)
    probability_V = scaled_V.softmax(-1)
    if sampling.top_p < 1:
        sorted_V, token_V = probability_V.sort(descending=True, stable=True)
        is_outside_V = sorted_V.cumsum(0) - sorted_V >= sampling.top_p
        kept_V = sorted_V * ~is_outside_V
        probability_V = torch.zeros_like(probability_V).scatter(0, token_V, kept_V)
    return int(torch.multinomial(probability_V, 1, generator=generator))


def token_logprob(logits_V: Tensor, token_id: int, top: int, offset: int = 0) -> TokenLogprob:
    """Log-probabilities under the model itself, before temperature and penalties, of a token that
    `offset` characters come before."""
    logprob_V = logits_V.float().log_softmax(-1)
    best = logprob_V.topk(top)
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return TokenLogprob(token_id, float(logprob_V[token_id]), tuple(pairs), offset)


def prompt_logprobs(
    logits_TV: Tensor, ids: Sequence[int], top: int, offsets: Sequence[int]
) -> list[TokenLogprob]:
    """Of each id, given the logits at the position before it."""
    logprob_TV = logits_TV.float().log_softmax(-1)
    chosen_T = logprob_TV.gather(1, torch.tensor(ids, device=logits_TV.device)[:, None])[:, 0]
    best = logprob_TV.topk(top)
    rows = zip(
        ids, chosen_T.tolist(), best.indices.tolist(), best.values.tolist(), offsets, strict=True
    )
    return [
        TokenLogprob(token_id, chosen, tuple(zip(tokens, values, strict=True)), offset)
        for token_id, chosen, tokens, values, offset in rows
    ]
