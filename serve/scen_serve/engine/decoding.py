"""From logits to text: constraints, sampling the next token of a row, incremental detokenization,
and the events of an answer."""

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import llguidance
import llguidance.hf
import numpy as np
import torch
from tokenizers.decoders import DecodeStream
from torch import Tensor

from scen.errors import InputError
from scen.model.base import Base
from scen_serve.engine.request import (
    Constraint,
    Ended,
    EndReason,
    Failed,
    Piece,
    Request,
    Sampling,
    Ticket,
    TokenLogprob,
)

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

_KEPT_CONSTRAINTS = 64
_MAX_CONSTRAINT = 1 << 16  # characters; a step could take long with more
JSON_OPTIONS: "JsonCompileOptions" = {
    # No free white space, which a small model can repeat until its answer is cut off.
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
}
"""llguidance's options for JSON schemas."""


class Matcher:
    """The tokens that may follow in one answer with a constraint. Not thread-safe.

    Its methods raise InputError if the constraint is too complex to be followed.
    """

    def __init__(self, state: llguidance.LLMatcher) -> None:
        self._state = state

    @property
    def is_complete(self) -> bool:
        """True if nothing can follow."""
        return self._state.is_stopped()

    def mask(self, logits_V: Tensor) -> Tensor:
        """The logits, -inf for each token that cannot follow."""
        bits = np.frombuffer(self._state.compute_bitmask(), np.uint8)
        self._check()
        allowed = np.unpackbits(bits, bitorder="little", count=len(logits_V)).astype(bool)
        allowed_V = torch.from_numpy(allowed).to(logits_V.device)
        return logits_V.masked_fill(~allowed_V, -math.inf)

    def take(self, token_id: int) -> None:
        """Add a token to the answer."""
        self._state.consume_token(token_id)
        self._check()

    def accepts(self, ids: Sequence[int]) -> bool:
        """True if these tokens complete the answer. The matcher cannot be used afterwards."""
        return self._state.try_consume_tokens(list(ids)) == len(ids) and self._state.is_accepting()

    def copy(self) -> "Matcher":
        """A matcher in the same state."""
        return Matcher(self._state.deep_copy())

    def _check(self) -> None:
        if self._state.is_error():
            raise InputError(f"constraint: cannot be followed: {self._state.get_error()}")


class Constraints:
    """Compiled constraints of one base's answers; the last ones are cached. Thread-safe."""

    def __init__(self, base: Base) -> None:
        self._base = base
        self._compiling = threading.Lock()  # held for long
        self._lock = threading.Lock()  # held briefly
        self._kept: OrderedDict[Constraint, Matcher] = OrderedDict()

    def matcher(self, constraint: Constraint) -> Matcher:
        """A matcher at the start of an answer. Compiling takes up to seconds: not for the engine's
        thread. Raises InputError if the constraint is invalid, unsupported or unsatisfiable."""
        known = self._find(constraint)
        if known is None:
            with self._compiling:
                compiled = self._compile(constraint)
            known = compiled.copy()
            with self._lock:
                self._kept[constraint] = compiled
                while len(self._kept) > _KEPT_CONSTRAINTS:
                    self._kept.popitem(last=False)
        return known

    def accepts(self, constraint: Constraint, text: str) -> bool:
        """True if the text is a whole answer under a constraint."""
        try:
            return self._compile(constraint).accepts(self._tokenizer.tokenize_str(text))
        except InputError:
            return False

    def _find(self, constraint: Constraint) -> Matcher | None:
        with self._lock:
            if constraint not in self._kept:
                return None
            self._kept.move_to_end(constraint)
            return self._kept[constraint].copy()

    def _compile(self, constraint: Constraint) -> Matcher:
        if len(constraint.text) > _MAX_CONSTRAINT:
            raise InputError(f"has more than {_MAX_CONSTRAINT} characters")
        try:
            state = llguidance.LLMatcher(self._tokenizer, grammar(constraint), log_level=0)
        except ValueError as err:
            raise InputError(str(err)) from err
        if state.is_error():
            raise InputError(state.get_error())
        matcher = Matcher(state)
        if not matcher.mask(torch.zeros(self._tokenizer.vocab_size)).isfinite().any():
            raise InputError("nothing satisfies it")
        return matcher

    @cached_property
    def _tokenizer(self) -> llguidance.LLTokenizer:
        """Raises InputError for a tokenizer without a fast implementation."""
        base = self._base
        vocab = base.config.vocab_size
        try:
            return llguidance.hf.from_tokenizer(base.tokenizer, vocab, sorted(base.stop_ids))
        except ValueError as err:
            raise InputError(f"the base's tokenizer does not support constraints ({err})") from err


def grammar(constraint: Constraint) -> str:
    """The constraint in llguidance's form. Raises ValueError if it is not of its kind at all."""
    text = constraint.text
    if constraint.kind == "regex":
        return llguidance.LLMatcher.grammar_from_regex(text)
    if constraint.kind == "choice":
        return llguidance.grammar_from("choice", text)
    return llguidance.LLMatcher.grammar_from_json_schema(text, overrides=JSON_OPTIONS)


def new_generator(sampling: Sampling) -> torch.Generator | None:
    """The random generator of one answer; None if it is greedy."""
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
    """Logits after `logit_bias`, `min_tokens` and the penalties; the same tensor if none is set.

    As in vLLM, the repetition penalty considers the tokens of prompt and answer, the other two only
    those of the answer.
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
        seen_logits = logits_V[seen]
        penalty = sampling.repetition_penalty
        logits_V[seen] = torch.where(seen_logits > 0, seen_logits / penalty, seen_logits * penalty)
    if output_ids and (sampling.frequency_penalty or sampling.presence_penalty):
        output = torch.tensor(output_ids, device=logits_V.device)
        used, counts = output.unique(return_counts=True)
        logits_V[used] -= sampling.frequency_penalty * counts + sampling.presence_penalty
    return logits_V


def choose_token(logits_V: Tensor, sampling: Sampling, generator: torch.Generator | None) -> int:
    """The most likely token, or one sampled after temperature, `min_p`, `top_k` and `top_p`, in
    this order."""
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
    """The log-probability of a token and of the `top` most likely ones, before temperature and
    penalties. `offset` is the number of characters before the token."""
    logprob_V = logits_V.float().log_softmax(-1)
    best = logprob_V.topk(top)
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return TokenLogprob(token_id, float(logprob_V[token_id]), tuple(pairs), offset)


def prompt_logprobs(
    logits_TV: Tensor, ids: Sequence[int], top: int, offsets: Sequence[int]
) -> list[TokenLogprob]:
    """Log-probabilities of each id, given the logits at the position before it."""
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


class IncrementalDetokenizer:
    """The text of one answer, token by token. A string of `stop` ends it and is left out."""

    def __init__(self, tokenizer: Any, stop: tuple[str, ...] = ()) -> None:
        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)
        self._stop = stop
        self._held = max((len(text) - 1 for text in stop), default=0)
        self._unread: list[int] = []  # tokens of an incomplete character
        self._pending = ""
        self.length = 0  # characters decoded so far, returned or held back
        self.is_stopped = False

    def push(self, token_id: int) -> str:
        """Add a token; the text that became final, empty within a character."""
        self._unread.append(token_id)
        text = self._stream.step(self._tokenizer.backend_tokenizer, token_id)
        if text is None:
            return ""
        self._unread.clear()
        return self._release(text, self._held)

    def finish(self) -> str:
        """The remaining text after the last token; an incomplete character becomes U+FFFD."""
        if self.is_stopped:
            return ""
        rest = self._tokenizer.decode(self._unread, skip_special_tokens=True)
        return self._release(str(rest), 0)

    def _release(self, text: str, held: int) -> str:
        """The pending text up to a stop string; without one, all but its last `held` characters."""
        self._pending += text
        self.length += len(text)
        ends = [at for at in map(self._pending.find, self._stop) if at >= 0]
        if ends:
            self.is_stopped = True
            return self._pending[: min(ends)]
        cut = max(0, len(self._pending) - held)
        released, self._pending = self._pending[:cut], self._pending[cut:]
        return released


@dataclass
class Answer:
    """The tokens of one answer, emitted as events; the same whatever engine chose them."""

    ticket: Ticket
    detokenizer: IncrementalDetokenizer
    output_ids: list[int] = field(default_factory=list, kw_only=True)
    is_ended: bool = field(default=False, kw_only=True)

    @property
    def request(self) -> Request:
        """The request that is answered."""
        return self.ticket.request

    def add(
        self, token: int, logprob: Callable[[int], TokenLogprob], stop_ids: frozenset[int]
    ) -> bool:
        """Emit the next token; False if the answer ends. `logprob` returns its log-probability,
        given the number of characters before it."""
        sampling = self.request.sampling
        matcher = self.ticket.matcher
        is_eos = token in stop_ids and not (sampling.ignore_eos and matcher is None)
        is_stop = is_eos or token in sampling.stop_token_ids
        logprobs: tuple[TokenLogprob, ...] = ()
        if sampling.top_logprobs is not None and (not is_stop or self.request.scored):
            logprobs = (logprob(self.detokenizer.length),)
        if is_stop:
            if logprobs:  # clients that score prompts expect one more token
                self.ticket.emit(Piece("", logprobs))
            return self.end("stop")
        self.output_ids.append(token)
        text = self.detokenizer.push(token)
        if matcher is not None:
            matcher.take(token)
        if text or logprobs:
            self.ticket.emit(Piece(text, logprobs))
        if self.detokenizer.is_stopped or (matcher is not None and matcher.is_complete):
            return self.end("stop")
        return len(self.output_ids) < sampling.max_tokens or self.end("length")

    def end(self, reason: EndReason) -> bool:
        """Emit the remaining text and the end; returns False."""
        rest = self.detokenizer.finish()
        if rest:
            self.ticket.emit(Piece(rest))
        self._emit_end("stop" if self.detokenizer.is_stopped else reason)
        return False

    def cancel(self) -> None:
        """Emit the end of a cancelled answer."""
        self._emit_end("cancelled")

    def fail(self, error: Exception) -> None:
        """Emit an error as the end of the answer."""
        self.is_ended = True
        self.ticket.emit(Failed(error))

    def _emit_end(self, reason: EndReason) -> None:
        self.is_ended = True
        self.ticket.emit(Ended(reason, len(self.request.prompt.ids), len(self.output_ids)))


def token_offsets(tokenizer: Any, ids: Sequence[int]) -> tuple[str, list[int]]:
    """The text of token ids, and the number of characters before each."""
    detokenizer = IncrementalDetokenizer(tokenizer)
    text, offsets = "", []
    for token_id in ids:
        offsets.append(detokenizer.length)
        text += detokenizer.push(token_id)
    return text + detokenizer.finish(), offsets
