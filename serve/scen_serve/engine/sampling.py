"""Choosing the next token of each row from its logits."""

import torch
from torch import Tensor

from scen_serve.engine.request import Sampling, TokenLogprob


def new_generator(sampling: Sampling) -> torch.Generator | None:
    """The numbers that a request draws its tokens with; None where nothing is drawn."""
    if sampling.temperature == 0:
        return None
    draw = torch.Generator()
    if sampling.seed is None:
        draw.seed()
    else:
        draw.manual_seed(sampling.seed)
    return draw


def choose_token(logits_V: Tensor, sampling: Sampling, draw: torch.Generator | None) -> int:
    """The likeliest token, or one drawn from the smallest set of tokens that holds `top_p`."""
    if draw is None:
        return int(logits_V.argmax())
    below_V = logits_V.double().cpu() - logits_V.max().item()  # a tiny temperature overflows else
    chance_V = (below_V / sampling.temperature).softmax(-1)
    if sampling.top_p < 1:
        sorted_V, token_V = chance_V.sort(descending=True, stable=True)
        is_outside_V = sorted_V.cumsum(0) - sorted_V >= sampling.top_p
        chance_V = torch.zeros_like(chance_V).scatter(0, token_V, sorted_V * ~is_outside_V)
    return int(torch.multinomial(chance_V, 1, generator=draw))


def token_logprob(logits_V: Tensor, token_id: int, top: int, offset: int = 0) -> TokenLogprob:
    """Log-probabilities under the model itself, whatever the temperature, of a token that so many
    characters come before."""
    logprob_V = logits_V.float().log_softmax(-1)
    best = logprob_V.topk(top)
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return TokenLogprob(token_id, float(logprob_V[token_id]), tuple(pairs), offset)
