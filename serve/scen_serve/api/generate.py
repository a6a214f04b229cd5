"""/v1/models, /v1/completions and /v1/chat/completions."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from scen.errors import InputError
from scen.records import EncodedPrompt
from scen_serve.api.access import AppContext
from scen_serve.api.errors import ApiError, as_api_error, error_body
from scen_serve.api.replies import ReplyForm, route_headers
from scen_serve.api.schema import AskBody, ChatBody, CompletionBody, ScenOptions
from scen_serve.engine import request as engine_request
from scen_serve.engine.request import Ended, Event, ResponseStream, Routed
from scen_serve.engine.snapshots import ServedSnapshot
from scen_serve.telemetry import RequestRecord

_LOOK_S = 0.25  # how often it is looked whether a client has gone away


def ask_routes(context: AppContext) -> APIRouter:
    """The routes by which the model is asked."""
    router = APIRouter(prefix="/v1", dependencies=[Depends(context.guard("read"))])
    template = context.service.store.base.template

    @router.get("/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_model(context)]}

    @router.get("/models/{name}")
    async def model(name: str) -> dict[str, Any]:
        _require_model(context, name)
        return _model(context)

    @router.post("/completions")
    async def completions(body: CompletionBody, request: Request) -> Response:
        texts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
        prompts = [await _encoded(template.encode_prompt, text.strip()) for text in texts]
        return await _answer(context, body, texts, prompts, request)

    @router.post("/chat/completions")
    async def chat(body: ChatBody, request: Request) -> Response:
        messages = [message.plain() for message in body.messages]
        messages[-1]["content"] = messages[-1]["content"].strip()
        prompt = await _encoded(template.encode_chat, messages)
        return await _answer(context, body, [messages], [prompt], request)

    return router


async def _answer(
    context: AppContext,
    body: AskBody,
    texts: Sequence[Any],
    prompts: list[EncodedPrompt],
    request: Request,
) -> Response:
    """The answer to some prompts; `texts` are these as the client sent them."""
    _require_model(context, body.model)
    engine = context.service.engine
    snapshot = await _find_snapshot(context, body.scen)
    if snapshot is None and len(prompts) * (body.n or 1) > 1:
        snapshot = engine.snapshot  # one answer, one version
    requests = [
        engine_request.Request(
            prompt,
            body.sampling(_length(context, body, prompt), choice),
            snapshot,
            body.scen.route == "auto",
        )
        for prompt in prompts
        for choice in range(body.n or 1)
    ]
    record: RequestRecord = request.state.record
    record.is_edited = body.scen.route == "auto"
    if context.traces is not None:
        context.traces.choose(record, texts)
    answers = ResponseStream(
        engine,
        requests,
        context.settings.timeout_s,
        lambda sink: record.watch(context.metrics.watch(sink)),
    )
    is_chat = isinstance(body, ChatBody)
    lengths = () if is_chat else [len(text) for text in texts for _ in range(body.n or 1)]
    form = ReplyForm(is_chat, context.settings.model_name, engine.base.tokenizer, lengths)
    if body.stream:
        return await _stream(answers, form, body, len(prompts))
    watch = asyncio.create_task(_cancel_when_gone(answers, request))
    try:
        choices = await answers.gather()
    finally:
        watch.cancel()
        answers.cancel()
    assert choices[0].routed is not None
    headers = route_headers(choices[0].routed)
    return JSONResponse(form.whole(choices, len(prompts)), headers=headers)


async def _stream(
    answers: ResponseStream, form: ReplyForm, body: AskBody, num_prompts: int
) -> Response:
    """An event stream that begins once the first answer's route is known, for the headers."""
    events = answers.events()
    first = []
    try:
        async for index, event in events:
            first.append((index, event))
            if index == 0:
                break
        routed = first[-1][1]
        if not isinstance(routed, Routed):
            raise routed.error if isinstance(routed, engine_request.Failed) else RuntimeError
    except BaseException:
        answers.cancel()
        raise
    with_usage = bool(body.stream_options and body.stream_options.include_usage)

    async def lines() -> AsyncIterator[str]:
        try:
            async for chunk in _chunks(_all(first, events), form, num_prompts, with_usage):
                yield f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n"
            yield "data: [DONE]\n\n"
        except Exception as error:  # the status is told already
            yield f"data: {json.dumps(error_body(as_api_error(error)))}\n\n"
        finally:
            answers.cancel()

    headers = route_headers(routed) | {"Cache-Control": "no-cache"}
    return StreamingResponse(lines(), media_type="text/event-stream", headers=headers)


async def _all(
    first: list[tuple[int, Event]], rest: AsyncIterator[tuple[int, Event]]
) -> AsyncIterator[tuple[int, Event]]:
    for told in first:
        yield told
    async for told in rest:
        yield told


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
        elif isinstance(event, engine_request.Piece):
            yield form.piece(index, routes[index], event.text, event.logprobs)
        elif isinstance(event, Ended):
            ended[index] = event
            yield form.closing(index, routes[index], event)
        else:
            raise event.error
    if with_usage:
        yield form.usage(routes[0], [ended[i] for i in sorted(ended)], num_prompts)


async def _find_snapshot(context: AppContext, options: ScenOptions) -> ServedSnapshot | None:
    """The version that the request names, or a candidate's for its share; None for the one of
    now. Raises NotFoundError."""
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
        await asyncio.sleep(_LOOK_S)
    answers.cancel()


async def _encoded(encode: Callable[[Any], EncodedPrompt], text: Any) -> EncodedPrompt:
    """Off the event loop: a long text takes a while. Raises InputError for half a character."""
    try:
        return await asyncio.to_thread(encode, text)
    except (UnicodeError, TypeError) as err:
        raise InputError("prompt: is not valid text (half of a character?)") from err


def _length(context: AppContext, body: AskBody, prompt: EncodedPrompt) -> int:
    """Tokens of the answer: as asked for, else what fits, within reason."""
    room = context.service.engine.max_context - len(prompt.ids)
    return body.wanted_tokens or max(1, min(context.settings.default_tokens, room))


def _require_model(context: AppContext, name: str) -> None:
    known = context.settings.model_name
    if name != known:
        error = ApiError(404, f"the model {name[:100]!r} does not exist; this server has {known!r}")
        error.param, error.code = "model", "model_not_found"
        raise error


def _model(context: AppContext) -> dict[str, Any]:
    snapshot = context.service.engine.snapshot
    return {
        "id": context.settings.model_name,
        "object": "model",
        "created": 0,
        "owned_by": "scen",
        "scen": {"version": None if snapshot is None else snapshot.version},
    }
