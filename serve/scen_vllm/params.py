"""Between the engine's requests and vLLM: sampling parameters and log-probabilities."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from scen_serve.engine.decoding import JSON_OPTIONS
from scen_serve.engine.request import Constraint, Request, TokenLogprob
from scen_vllm.wish import Wish


def sampling_params(request: Request, stop_ids: frozenset[int], wish: Wish | None) -> Any:
    """The SamplingParams of a request.

    vLLM returns tokens only: text and stop strings are handled as by the own engine. It generates
    at least one token, which is dropped if none was requested.
    """
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    sampling = request.sampling
    stops = set(sampling.stop_token_ids)
    if not sampling.ignore_eos:
        stops |= stop_ids
    return SamplingParams(
        max_tokens=max(1, sampling.max_tokens),
        min_tokens=sampling.min_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        seed=sampling.seed,
        repetition_penalty=sampling.repetition_penalty,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        logit_bias=dict(sampling.logit_bias) or None,
        stop_token_ids=sorted(stops),
        ignore_eos=sampling.ignore_eos,
        logprobs=sampling.top_logprobs,
        prompt_logprobs=(sampling.top_logprobs or 0) if request.scored else None,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
        structured_outputs=_structured(sampling.constraint),
        extra_args={"scen": dict(wish)} if wish else None,
    )


def _structured(constraint: Constraint | None) -> Any:
    """vLLM's form of a constraint."""
    from vllm.sampling_params import StructuredOutputsParams

    if constraint is None:
        return None
    if constraint.kind == "choice":
        return StructuredOutputsParams(choice=json.loads(constraint.text))
    if constraint.kind == "regex":
        return StructuredOutputsParams(regex=constraint.text)
    schema = json.loads(constraint.text)
    if isinstance(schema, dict):  # llguidance reads its own options from there
        schema = schema | {"x-guidance": JSON_OPTIONS}
    return StructuredOutputsParams(json=json.dumps(schema))


def probe_params(wish: Wish) -> Any:
    """The SamplingParams of a prompt of which only the keys are read."""
    from vllm import SamplingParams

    return SamplingParams(
        max_tokens=1, temperature=0, detokenize=False, extra_args={"scen": dict(wish)}
    )


def token_logprob(token: int, entries: Mapping[int, Any], top: int, offset: int) -> TokenLogprob:
    """Of a token and the `top` most likely ones, from vLLM's Logprob objects by token."""
    ranked = sorted((entry.rank, other, entry.logprob) for other, entry in entries.items())
    best = tuple((other, value) for rank, other, value in ranked if rank <= top)
    return TokenLogprob(token, entries[token].logprob, best[:top], offset)


def prompt_logprobs(
    ids: Sequence[int],
    entries: Sequence[Mapping[int, Any] | None],
    top: int,
    offsets: Sequence[int],
) -> tuple[TokenLogprob, ...]:
    """Of each token of a prompt but the first."""
    rows = zip(ids, entries, offsets, strict=True)
    return tuple(token_logprob(token, entry, top, offset) for token, entry, offset in rows if entry)
