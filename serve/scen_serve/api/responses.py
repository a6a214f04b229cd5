"""/v1/responses: the Responses API, text only and stateless."""

import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Literal

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field, field_validator, model_validator

from scen_serve.api.access import AppContext
from scen_serve.api.errors import as_api_error, error_body
from scen_serve.api.generate import encode_messages, require_model, start_answers
from scen_serve.api.replies import (
    answer_headers,
    chain,
    data_line,
    event_stream,
    first_events,
    gather,
    route_field,
)
from scen_serve.api.schema import AskBody, Message, OutputFormat, require_question, unsupported
from scen_serve.engine.request import Ended, Event, Piece, Routed


class InputMessage(Message):
    """One item of the input; only messages are supported."""

    type: Literal["message"] = "message"


class TextOptions(BaseModel):
    """The form of the answer."""

    format: OutputFormat | None = None


class ResponseBody(AskBody):
    """/v1/responses."""

    input: str | list[InputMessage]
    instructions: str | None = None
    max_output_tokens: int | None = Field(default=None, ge=1)
    metadata: dict[str, str] | None = Field(default=None, max_length=16)
    text: TextOptions | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=0)
    store: bool | None = None
    parallel_tool_calls: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_stored_prompts(cls, body: Any) -> Any:
        if isinstance(body, dict) and body.get("prompt"):
            raise unsupported("prompt")
        return body

    @property
    def wanted_tokens(self) -> int | None:
        return self.max_output_tokens

    @property
    def format(self) -> tuple[str, OutputFormat | None]:
        return "text.format", self.text.format if self.text else None

    @property
    def messages(self) -> list[Message]:
        """The input as a conversation, the instructions first."""
        first = self.instructions
        system = [] if first is None else [Message(role="system", content=first)]
        if isinstance(self.input, str):
            return [*system, Message(role="user", content=self.input)]
        return [*system, *self.input]

    @field_validator("input")
    @classmethod
    def _ends_with_the_user(cls, value: str | list[InputMessage]) -> str | list[InputMessage]:
        if isinstance(value, list):
            if not 1 <= len(value) <= 256:
                raise ValueError("1 to 256 messages")
            require_question(list(value))
        else:
            require_question([Message(role="user", content=value)])
        return value


def response_routes(context: AppContext) -> APIRouter:
    """POST /v1/responses."""
    router = APIRouter(prefix="/v1", dependencies=[Depends(context.guard("read"))])
    template = context.service.store.base.template

    @router.post("/responses")
    async def responses(body: ResponseBody, request: Request) -> Response:
        require_model(context, body.model)
        prompt = await encode_messages(template, body.messages)
        answers = await start_answers(context, body, [prompt], request)
        form = ResponseForm(body)
        if body.stream:
            first, routed = await first_events(answers)
            lines = _lines(form, chain(first, answers), routed)
            return event_stream(answers, lines, answer_headers(body, routed))
        [choice] = await gather(answers, request)
        assert choice.routed is not None
        whole = form.response(choice.routed, choice.text, choice.ended)
        return JSONResponse(whole, headers=answer_headers(body, choice.routed))

    return router


@dataclass(frozen=True)
class ResponseForm:
    """Formats one response, whole or as stream events."""

    body: ResponseBody
    id: str = field(default_factory=lambda: f"resp_{uuid.uuid4().hex}")
    item_id: str = field(default_factory=lambda: f"msg_{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def response(self, routed: Routed, text: str, ended: Ended | None) -> dict[str, Any]:
        """The response object; in progress and without output if `ended` is None."""
        body, form = self.body, self.body.format[1]
        status = "in_progress" if ended is None else _status(ended)
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"}
            if status == "incomplete"
            else None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": body.metadata or {},
            "model": body.model,
            "output": [] if ended is None else [self.item(status, text)],
            "parallel_tool_calls": True,
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None},
            "store": False,
            "temperature": body.temperature or 0.0,
            "text": {
                "format": {"type": "text"} if form is None else form.model_dump(exclude_none=True)
            },
            "tool_choice": "auto",
            "tools": [],
            "top_p": 1.0 if body.top_p is None else body.top_p,
            "truncation": "disabled",
            "usage": None if ended is None else _usage(ended),
            "user": None,
            "scen": route_field(routed),
        }

    def item(self, status: str, text: str | None) -> dict[str, Any]:
        """The output message; without content if `text` is None."""
        content = [] if text is None else [self.part(text)]
        message = {"id": self.item_id, "type": "message", "role": "assistant"}
        return message | {"status": status, "content": content}

    def part(self, text: str) -> dict[str, Any]:
        """The content of the message."""
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


async def _lines(
    form: ResponseForm, events: AsyncIterator[tuple[int, Event]], routed: Routed
) -> AsyncIterator[str]:
    """The events of a stream with sequence numbers, as lines."""
    number = 0
    try:
        async for event in _events(form, events, routed):
            yield data_line(event | {"sequence_number": number}, event["type"])
            number += 1
    except Exception as error:  # the status line has been sent
        about = error_body(as_api_error(error))["error"]
        event = {"type": "error", "code": about["code"], "message": about["message"]}
        yield data_line(event | {"param": about["param"], "sequence_number": number}, "error")


async def _events(
    form: ResponseForm, events: AsyncIterator[tuple[int, Event]], routed: Routed
) -> AsyncIterator[dict[str, Any]]:
    """The events of a stream, in OpenAI's order."""
    begun = form.response(routed, "", None)
    at_item: dict[str, Any] = {"output_index": 0}
    at_part = at_item | {"item_id": form.item_id, "content_index": 0}
    yield {"type": "response.created", "response": begun}
    yield {"type": "response.in_progress", "response": begun}
    item = form.item("in_progress", None)
    yield {"type": "response.output_item.added", **at_item, "item": item}
    yield {"type": "response.content_part.added", **at_part, "part": form.part("")}
    text = ""
    async for _, event in events:
        if isinstance(event, Piece) and event.text:
            text += event.text
            delta = {"delta": event.text, "logprobs": []}
            yield {"type": "response.output_text.delta", **at_part, **delta}
        elif isinstance(event, Ended):
            done = {"text": text, "logprobs": []}
            yield {"type": "response.output_text.done", **at_part, **done}
            yield {"type": "response.content_part.done", **at_part, "part": form.part(text)}
            item = form.item(_status(event), text)
            yield {"type": "response.output_item.done", **at_item, "item": item}
            whole = form.response(routed, text, event)
            yield {"type": f"response.{_status(event)}", "response": whole}


def _status(ended: Ended) -> str:
    return "completed" if ended.reason == "stop" else "incomplete"


def _usage(ended: Ended) -> dict[str, Any]:
    return {
        "input_tokens": ended.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": ended.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": ended.prompt_tokens + ended.completion_tokens,
    }
