"""/v1/models, /v1/completions and /v1/chat/completions."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from scen_serve.api.access import AppContext
from scen_serve.api.errors import ApiError, as_api_error, error_body
from scen_serve.api.replies import IGNORED_HEADER, ReplyForm, route_headers
from scen_serve.api.schema import (
    AskBody,
    ChatBody,
    CompletionBody,
    Prompt,
    ScenOptions,
    encode_messages,
    encode_raw,
)
from scen_serve.engine import request as engine_request
from scen_serve.engine.request import Choice, Ended, Event, Failed, Piece, ResponseStream, Routed
from scen_serve.engine.snapshots import ServedSnapshot
from scen_serve.telemetry import RequestRecord

_DISCONNECT_POLL_S = 0.25
_MAX_ANSWERS = 64  # to all prompts of one request
# JSON does not escape these three, but clients that split lines as Python does break on them.
_LINE_BREAKS = str.maketrans({"\x85": "\\u0085", "\u2028": "\\u2028", "\u2029": "\\u2029"})


def generate_routes(context: AppContext) -> APIRouter:
    """The routes that list the model and generate with it."""
    router = APIRouter(prefix="/v1", dependencies=[Depends(context.guard("read"))])
    template = context.service.store.base.template

    @router.get("/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_model(context)]}

    @router.get("/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        require_model(context, name)
        return _model(context)

    @router.post("/completions")
    async def completions(body: CompletionBody, request: Request) -> Response:
        require_model(context, body.model)
        if len(body.prompts) * body.num_choices > _MAX_ANSWERS:
            raise ApiError(400, f"n: at most {_MAX_ANSWERS} answers to all prompts", param="n")
        prompts = [
            await encode_raw(template, prompt, add_special_tokens=body.add_special_tokens)
            for prompt in body.prompts
        ]
        form = ReplyForm(
            is_chat=False,
            model=body.model,
            tokenizer=template.tokenizer,
            prompts=[prompt for prompt in prompts for _ in range(body.num_choices)],
            echo=bool(body.echo),
        )
        return await _answer(context, body, form, prompts, request)

    @router.post("/chat/completions")
    async def chat(body: ChatBody, request: Request) -> Response:
        require_model(context, body.model)
        prompt = await encode_messages(template, body.messages)
        form = ReplyForm(is_chat=True, model=body.model, tokenizer=template.tokenizer)
        return await _answer(context, body, form, [prompt], request)

    return router


async def _answer(
    context: AppContext,
    body: ChatBody | CompletionBody,
    form: ReplyForm,
    prompts: Sequence[Prompt],
    request: Request,
) -> Response:
    answers = await start_answers(context, body, prompts, request)
    if body.stream:
        first, routed = await first_events(answers)
        with_usage = bool(body.stream_options and body.stream_options.include_usage)
        chunks = _chunks(chain(first, answers), form, len(prompts), with_usage)
        return event_stream(answers, _chat_lines(chunks), answer_headers(body, routed))
    choices = await gather(answers, request)
    assert choices[0].routed is not None
    headers = answer_headers(body, choices[0].routed)
    return JSONResponse(form.whole(choices, len(prompts)), headers=headers)


async def start_answers(
    context: AppContext, body: AskBody, prompts: Sequence[Prompt], request: Request
) -> ResponseStream:
    """Submit `num_choices` requests per prompt to the engine, all on one version."""
    engine = context.service.engine
    snapshot = await _find_snapshot(context, body.scen)
    if snapshot is None and len(prompts) * body.num_choices > 1:
        snapshot = engine.snapshot
    is_edited = body.scen.route == "auto"
    is_scored = isinstance(body, CompletionBody) and body.echo and body.logprobs is not None
    requests = [
        engine_request.Request(
            prompt.encoded,
            body.sampling(_max_tokens(context, body, prompt), choice),
            snapshot,
            is_edited and prompt.is_routable,
            prompt.question,
            prompt.scored if is_scored else None,
        )
        for prompt in prompts
        for choice in range(body.num_choices)
    ]
    record: RequestRecord = request.state.record
    record.is_edited = is_edited
    if context.traces is not None:
        context.traces.choose(record, _texts(body, prompts))
    return ResponseStream(
        engine,
        requests,
        context.settings.timeout_s,
        lambda sink: record.watch(context.metrics.watch(sink)),
    )


def _texts(body: AskBody, prompts: Sequence[Prompt]) -> Sequence[Any]:
    """The prompts, in the form recorded in traces."""
    if isinstance(body, ChatBody):
        return [[message.plain() for message in body.messages]]
    return [prompt.text for prompt in prompts]


async def gather(answers: ResponseStream, request: Request) -> list[Choice]:
    """All answers, complete; they are cancelled if the client disconnects."""
    watch = asyncio.create_task(_cancel_when_gone(answers, request))
    try:
        return await answers.gather()
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


def answer_headers(body: AskBody, routed: Routed) -> dict[str, str]:
    """Headers with the version, the route, and the names of ignored fields."""
    ignored = body.ignored
    return route_headers(routed) | ({IGNORED_HEADER: ignored} if ignored else {})


async def _chat_lines(chunks: AsyncIterator[dict[str, Any]]) -> AsyncIterator[str]:
    try:
        async for chunk in chunks:
            yield data_line(chunk)
        yield "data: [DONE]\n\n"
    except Exception as error:  # the status line has been sent
        yield data_line(error_body(as_api_error(error)))


async def _chunks(
    events: AsyncIterator[tuple[int, Event]], form: ReplyForm, num_prompts: int, with_usage: bool
) -> AsyncIterator[dict[str, Any]]:
    """The chunks of a stream, in the order of the events."""
    routes: dict[int, Routed] = {}
    ended: dict[int, Ended] = {}
    async for index, event in events:
        if isinstance(event, Routed):
            routes[index] = event
            yield form.opening(index, event)
        elif isinstance(event, Piece):
            yield form.piece(index, routes[index], event)
        elif isinstance(event, Ended):
            ended[index] = event
            yield form.closing(index, routes[index], event)
    if with_usage:
        yield form.usage(routes[0], [ended[i] for i in sorted(ended)], num_prompts)


async def _find_snapshot(context: AppContext, options: ScenOptions) -> ServedSnapshot | None:
    """The version that the request names, or the candidate for its share of requests; None for the
    served one. Raises NotFoundError."""
    service = context.service
    if options.version is None:
        return service.follower.draw()
    if options.version == "pin":
        if service.engine.snapshot is not None:
            service.follower.keep(service.engine.snapshot)
        return service.engine.snapshot
    return await asyncio.to_thread(service.follower.find, options.version)


async def _cancel_when_gone(answers: ResponseStream, request: Request) -> None:
    while not await request.is_disconnected():
        await asyncio.sleep(_DISCONNECT_POLL_S)
    answers.cancel()


def _max_tokens(context: AppContext, body: AskBody, prompt: Prompt) -> int:
    """As requested, else the default, limited to what fits into the context."""
    if body.wanted_tokens is not None:
        return body.wanted_tokens
    room = context.service.engine.max_context - len(prompt.encoded.ids)
    return max(1, min(context.settings.default_tokens, room))


def require_model(context: AppContext, name: str) -> None:
    """Raises ApiError 404 unless `name` is the served model."""
    known = context.settings.model_name
    if name != known:
        text = f"the model {name[:100]!r} does not exist; this server serves {known!r}"
        raise ApiError(404, text, param="model", code="model_not_found")


def _model(context: AppContext) -> dict[str, Any]:
    snapshot = context.service.engine.snapshot
    return {
        "id": context.settings.model_name,
        "object": "model",
        "created": 0,
        "owned_by": "scen",
        "scen": {"version": None if snapshot is None else snapshot.version},
    }
