"""Answers in the form of OpenAI's API, each with the version and the route it came by."""

import time
import urllib.parse
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from scen_serve.engine.request import Choice, Ended, Routed, TokenLogprob


def route_headers(routed: Routed) -> dict[str, str]:
    """X-Scen-Version and X-Scen-Edit, the percent-encoded id of the edit; empty for the base."""
    edit = urllib.parse.quote(routed.edit_id or "", safe="")
    return {"X-Scen-Version": str(routed.version), "X-Scen-Edit": edit}


def route_field(routed: Routed) -> dict[str, Any]:
    """The field `scen` of an answer."""
    score = None if routed.score is None else round(routed.score, 4)
    found = {"version": routed.version, "edit_id": routed.edit_id, "score": score}
    return found if routed.span is None else found | {"span": routed.span}


def usage_field(ended: Sequence[Ended], num_prompts: int) -> dict[str, int]:
    """Tokens of all choices; a prompt that several choices answer counts once."""
    per_prompt = max(1, len(ended) // num_prompts)
    prompt = sum(end.prompt_tokens for end in ended[::per_prompt])
    completion = sum(end.completion_tokens for end in ended)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


@dataclass(frozen=True)
class ReplyForm:
    """The form of one call's answer: of a chat, or of completions, where `prompt_lengths` are the
    characters of each choice's prompt."""

    is_chat: bool
    model: str
    tokenizer: Any
    prompt_lengths: Sequence[int] = ()
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, choices: Sequence[Choice], num_prompts: int) -> dict[str, Any]:
        """The body of an answer that is told at once."""
        ended = [choice.ended for choice in choices if choice.ended is not None]
        parts = [self._choice(index, choice) for index, choice in enumerate(choices)]
        kind = "chat.completion" if self.is_chat else "text_completion"
        routed = choices[0].routed
        assert routed is not None  # it is the first event
        return self._head(kind, routed) | {
            "choices": parts,
            "usage": usage_field(ended, num_prompts),
        }

    def piece(
        self, index: int, routed: Routed, text: str, logprobs: Sequence[TokenLogprob] = ()
    ) -> dict[str, Any]:
        """A chunk of a stream with more text."""
        content = {"delta": {"content": text}} if self.is_chat else {"text": text}
        return self._chunk(index, routed, content, self._logprobs(index, logprobs), None)

    def opening(self, index: int, routed: Routed) -> dict[str, Any]:
        """The first chunk of a choice."""
        delta = {"delta": {"role": "assistant", "content": ""}}
        return self._chunk(index, routed, delta if self.is_chat else {"text": ""}, None, None)

    def closing(self, index: int, routed: Routed, ended: Ended) -> dict[str, Any]:
        """The last chunk of a choice."""
        content: dict[str, Any] = {"delta": {}} if self.is_chat else {"text": ""}
        return self._chunk(index, routed, content, None, ended.reason)

    def usage(self, routed: Routed, ended: Sequence[Ended], num_prompts: int) -> dict[str, Any]:
        """The chunk that counts the tokens."""
        head = self._head(self._chunk_kind, routed)
        return head | {"choices": [], "usage": usage_field(ended, num_prompts)}

    @property
    def _chunk_kind(self) -> str:
        return "chat.completion.chunk" if self.is_chat else "text_completion"

    def _head(self, kind: str, routed: Routed) -> dict[str, Any]:
        prefix = "chatcmpl" if self.is_chat else "cmpl"
        return {
            "id": f"{prefix}-{self.id}",
            "object": kind,
            "created": self.created,
            "model": self.model,
            "scen": route_field(routed),
        }

    def _chunk(
        self, index: int, routed: Routed, content: dict[str, Any], logprobs: Any, reason: Any
    ) -> dict[str, Any]:
        choice = {"index": index, **content, "logprobs": logprobs, "finish_reason": reason}
        return self._head(self._chunk_kind, routed) | {"choices": [choice]}

    def _choice(self, index: int, choice: Choice) -> dict[str, Any]:
        assert choice.ended is not None
        assert choice.routed is not None
        message = {"message": {"role": "assistant", "content": choice.text, "refusal": None}}
        return {
            "index": index,
            **(message if self.is_chat else {"text": choice.text}),
            "logprobs": self._logprobs(index, choice.logprobs),
            "finish_reason": choice.ended.reason,
            "scen": route_field(choice.routed),
        }

    def _logprobs(self, index: int, logprobs: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        """Offsets of completions count from the beginning of the prompt, as OpenAI's do."""
        if not logprobs:
            return None
        if self.is_chat:
            return {"content": [self._chat_logprob(logprob) for logprob in logprobs]}
        return {
            "tokens": [self._text(one.token_id) for one in logprobs],
            "token_logprobs": [one.logprob for one in logprobs],
            "top_logprobs": [
                {self._text(token): logprob for token, logprob in logprob.top}
                for logprob in logprobs
            ],
            "text_offset": [self.prompt_lengths[index] + one.offset for one in logprobs],
        }

    def _chat_logprob(self, logprob: TokenLogprob) -> dict[str, Any]:
        top = [self._token(token, value) for token, value in logprob.top]
        return self._token(logprob.token_id, logprob.logprob) | {"top_logprobs": top}

    def _token(self, token_id: int, logprob: float) -> dict[str, Any]:
        text = self._text(token_id)
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

    def _text(self, token_id: int) -> str:
        return str(self.tokenizer.decode([token_id]))
