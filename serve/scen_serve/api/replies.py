"""Answers in OpenAI's format, each with its version and route, whole or as streams of events; the
place of an edit's answer in the form that was asked for."""

import asyncio
import json
import re
import time
import urllib.parse
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from fastapi import Request
from fastapi.responses import StreamingResponse
from tokenizers.decoders import ByteLevel
from transformers.convert_slow_tokenizer import bytes_to_unicode

from scen_serve.api.schema import AskBody, Prompt
from scen_serve.engine.decoding import Constraints
from scen_serve.engine.request import (
    Choice,
    Constraint,
    Ended,
    Event,
    Failed,
    Piece,
    ResponseStream,
    Routed,
    TokenLogprob,
)

IGNORED_HEADER = "X-Scen-Ignored-Fields"
UNPLACED_HEADER = "X-Scen-Unplaced-Edit"
_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")  # SentencePiece byte fallback
_DISCONNECT_POLL_S = 0.25
# JSON does not escape these three, but clients that split lines as Python does break on them.
_LINE_BREAKS = str.maketrans({"\x85": "\\u0085", "\u2028": "\\u2028", "\u2029": "\\u2029"})


def route_headers(routed: Routed) -> dict[str, str]:
    """X-Scen-Version and X-Scen-Edit (percent-encoded id of the edit; empty for the base), and
    X-Scen-Unplaced-Edit if that edit's answer has no place in the form that was asked for."""
    edit = urllib.parse.quote(routed.edit_id or "", safe="")
    headers = {"X-Scen-Version": str(routed.version), "X-Scen-Edit": edit}
    if routed.unplaced is not None:
        headers[UNPLACED_HEADER] = urllib.parse.quote(routed.unplaced, safe="")
    return headers


def answer_headers(body: AskBody, routed: Routed) -> dict[str, str]:
    """Headers with the version, the route, and the names of ignored fields."""
    ignored = body.ignored
    return route_headers(routed) | ({IGNORED_HEADER: ignored} if ignored else {})


def route_field(routed: Routed) -> dict[str, Any]:
    """The field `scen` of an answer."""
    score = None if routed.score is None else round(routed.score, 4)
    route: dict[str, Any] = {"version": routed.version, "edit_id": routed.edit_id, "score": score}
    for name in ("span", "unplaced"):
        if getattr(routed, name) is not None:
            route[name] = getattr(routed, name)
    return route


def usage_field(ended: Sequence[Ended], num_prompts: int) -> dict[str, int]:
    """Token counts of all choices; a prompt with several choices counts once."""
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
    """Formats the answers of one chat or completions request. For completions, `prompts` has the
    prompt of each choice; `echo` puts it before the answer."""

    is_chat: bool
    model: str
    tokenizer: Any
    prompts: Sequence[Prompt] = ()
    echo: bool = False
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, choices: Sequence[Choice], num_prompts: int) -> dict[str, Any]:
        """The body of a non-streaming response."""
        ended = [choice.ended for choice in choices if choice.ended is not None]
        parts = [self._choice(index, choice) for index, choice in enumerate(choices)]
        kind = "chat.completion" if self.is_chat else "text_completion"
        routed = choices[0].routed
        assert routed is not None  # always the first event
        return self._head(kind, routed) | {
            "choices": parts,
            "usage": usage_field(ended, num_prompts),
        }

    def opening(self, index: int, routed: Routed) -> dict[str, Any]:
        """The first chunk of a choice."""
        if self.is_chat:
            content: dict[str, Any] = {"delta": {"role": "assistant", "content": ""}}
        else:
            content = {"text": self.prompts[index].text if self.echo else ""}
        return self._chunk(index, routed, content, None, None)

    def piece(self, index: int, routed: Routed, piece: Piece) -> dict[str, Any]:
        """A chunk with more text."""
        content = {"delta": {"content": piece.text}} if self.is_chat else {"text": piece.text}
        logprobs = self._logprobs(index, piece.logprobs, piece.prompt)
        return self._chunk(index, routed, content, logprobs, None)

    def closing(self, index: int, routed: Routed, ended: Ended) -> dict[str, Any]:
        """The last chunk of a choice."""
        content: dict[str, Any] = {"delta": {}} if self.is_chat else {"text": ""}
        return self._chunk(index, routed, content, None, ended.reason)

    def usage(self, routed: Routed, ended: Sequence[Ended], num_prompts: int) -> dict[str, Any]:
        """The chunk with the token counts."""
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
        if self.is_chat:
            message = {"role": "assistant", "content": choice.text, "refusal": None}
            content: dict[str, Any] = {"message": message}
        else:
            content = {"text": (self.prompts[index].text if self.echo else "") + choice.text}
        return {
            "index": index,
            **content,
            "logprobs": self._logprobs(index, choice.logprobs, choice.prompt),
            "finish_reason": choice.ended.reason,
            "scen": route_field(choice.routed),
        }

    def _logprobs(
        self, index: int, answer: Sequence[TokenLogprob], scored: Sequence[TokenLogprob] | None
    ) -> dict[str, Any] | None:
        """For completions, offsets count from the beginning of the prompt, as OpenAI's do."""
        if self.is_chat:
            return {"content": [self._chat_logprob(token) for token in answer]} if answer else None
        prompt = self.prompts[index]
        if not answer and scored is None:
            return None
        tokens = [*(scored or ()), *answer]
        after = len(prompt.text)
        offsets = [token.offset for token in scored or ()]
        offsets += [after + token.offset for token in answer]
        # Nothing precedes the first token of a prompt, so it has no probability.
        first = [] if scored is None else [prompt.encoded.ids[0]]
        nothing: list[Any] = [None for _ in first]
        return {
            "tokens": [self._text(token_id) for token_id in first]
            + [self._text(token.token_id) for token in tokens],
            "token_logprobs": nothing + [token.logprob for token in tokens],
            "top_logprobs": nothing + [self._alternatives(token) for token in tokens],
            "text_offset": [0 for _ in first] + offsets,
        }

    def _alternatives(self, token: TokenLogprob) -> dict[str, float]:
        """By text, the chosen token first: another token with the same text does not replace it."""
        by_text = {self._text(token.token_id): token.logprob}
        for token_id, logprob in token.top:
            by_text.setdefault(self._text(token_id), logprob)
        return by_text

    def _chat_logprob(self, token: TokenLogprob) -> dict[str, Any]:
        top = [self._token(token_id, logprob) for token_id, logprob in token.top]
        return self._token(token.token_id, token.logprob) | {"top_logprobs": top}

    def _token(self, token_id: int, logprob: float) -> dict[str, Any]:
        data = token_bytes(self.tokenizer, token_id)
        return {"token": token_text(data), "logprob": logprob, "bytes": list(data)}

    def _text(self, token_id: int) -> str:
        return token_text(token_bytes(self.tokenizer, token_id))


async def gather(
    answers: ResponseStream, request: Request, *, edits_only: bool = False
) -> list[Choice]:
    """All answers, complete; they are cancelled if the client disconnects, and with `edits_only`
    if they are the base's."""
    watch = asyncio.create_task(_cancel_when_gone(answers, request))
    try:
        return await answers.gather(edits_only=edits_only)
    finally:
        watch.cancel()
        answers.cancel()


async def first_events(answers: ResponseStream) -> tuple[list[tuple[int, Event]], Routed]:
    """The events up to and including the first answer's route, and that route, which a stream needs
    for its headers. Raises the error of an answer that failed before."""
    first: list[tuple[int, Event]] = []
    try:
        async for index, event in answers.events():
            first.append((index, event))
            if isinstance(event, Failed):
                raise event.error
            if index == 0 and isinstance(event, Routed):
                return first, event
        raise RuntimeError("an answer ended before it began")
    except BaseException:
        answers.cancel()
        raise


async def chain(
    first: Sequence[tuple[int, Event]], answers: ResponseStream
) -> AsyncIterator[tuple[int, Event]]:
    """These events, then the remaining ones. Raises the error of an answer that failed."""
    for indexed_event in first:
        yield indexed_event
    async for index, event in answers.events():
        if isinstance(event, Failed):
            raise event.error
        yield index, event


def event_stream(
    answers: ResponseStream, lines: AsyncIterator[str], headers: dict[str, str]
) -> StreamingResponse:
    """Server-sent events; the answers are cancelled if the client disconnects."""

    async def cancelling() -> AsyncIterator[str]:
        try:
            async for line in lines:
                yield line
        finally:
            answers.cancel()

    return StreamingResponse(
        cancelling(),
        media_type="text/event-stream",
        headers=headers | {"Cache-Control": "no-cache"},
    )


def data_line(value: Any, event: str | None = None) -> str:
    """One server-sent event."""
    text = json.dumps(value, ensure_ascii=False).translate(_LINE_BREAKS)
    return f"data: {text}\n\n" if event is None else f"event: {event}\ndata: {text}\n\n"


async def _cancel_when_gone(answers: ResponseStream, request: Request) -> None:
    while not await request.is_disconnected():
        await asyncio.sleep(_DISCONNECT_POLL_S)
    answers.cancel()


def token_bytes(tokenizer: Any, token_id: int) -> bytes:
    """The bytes of a token, which may be part of a character."""
    piece = str(tokenizer.convert_ids_to_tokens(token_id))
    if token_id in tokenizer.added_tokens_decoder:
        return piece.encode()
    if isinstance(tokenizer.backend_tokenizer.decoder, ByteLevel):
        return bytes(_byte_of()[letter] for letter in piece)
    match = _BYTE_PIECE.fullmatch(piece)
    return bytes.fromhex(match[1]) if match else piece.replace("\u2581", " ").encode()


def token_text(data: bytes) -> str:
    r"""A token's bytes as text; `bytes:\xf0\x9f` for part of a character, as OpenAI writes it."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


@cache
def _byte_of() -> dict[str, int]:
    """The byte for each letter of byte-level BPE."""
    return {letter: byte for byte, letter in bytes_to_unicode().items()}


def fix_answer(constraints: Constraints, constraint: Constraint, answer: str) -> Constraint | None:
    """The constraint with this answer fixed in its place; None if it has none.

    Its place is the whole constraint or, in the schema of an object, the property `answer`,
    else the only property that can be the answer: as a number or another JSON literal if it
    reads as one, else as a string. Slow, like `Constraints.matcher`.
    """
    if constraint.kind != "json_schema":
        fixed = Constraint("choice", json.dumps([answer]))
        return fixed if constraints.accepts(constraint, answer) else None
    schema = json.loads(constraint.text)
    defs = {name: schema[name] for name in ("$defs", "definitions") if name in schema}
    target = _resolve(schema)
    for value in _values(answer):
        text = json.dumps(value, ensure_ascii=False)
        if "properties" not in target:
            if constraints.accepts(constraint, text):
                return Constraint("json_schema", json.dumps({"const": value}))
            continue
        properties = {n: {} if part is True else part for n, part in target["properties"].items()}
        named = [name for name in properties if name.lower() == "answer"]
        places = [
            name
            for name in named or properties
            if properties[name] is not False
            and constraints.accepts(_of_schema({**properties[name], **defs}), text)
        ]
        if len(places) == 1:
            fixed_properties = properties | {places[0]: {"const": value}}
            required = list(dict.fromkeys([*target.get("required", ()), *places]))
            return _of_schema(
                target | defs | {"properties": fixed_properties, "required": required}
            )
    return None


def _of_schema(schema: Any) -> Constraint:
    return Constraint("json_schema", json.dumps(schema))


def _resolve(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema that the root refers to, or the schema itself."""
    path = str(schema.get("$ref", "")).split("/")
    if len(path) == 3 and path[0] == "#":
        target = schema.get(path[1], {}).get(path[2])
        return target if isinstance(target, dict) else schema
    return schema


def _values(answer: str) -> list[Any]:
    """The JSON values that an answer can be: the literal that it reads as, if any, and itself."""
    try:
        literal = json.loads(answer)
    except ValueError:
        return [answer]
    return [answer] if isinstance(literal, str | dict | list) else [literal, answer]
