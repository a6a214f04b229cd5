"""/v1/models, /v1/completions and /v1/chat/completions; prompts as tokens.

Prompts are conversations, raw text or token ids.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response

from scen.errors import ConfigError, InputError
from scen.model.template import Template
from scen.records import EncodedPrompt
from scen_serve.api.access import AppContext
from scen_serve.api.errors import ApiError, as_api_error, error_body
from scen_serve.api.replies import (
    ReplyForm,
    answer_headers,
    chain,
    data_line,
    event_stream,
    first_events,
    fix_answer,
    gather,
)
from scen_serve.api.schema import (
    AskBody,
    ChatBody,
    CompletionBody,
    Message,
    Prompt,
    ScenOptions,
)
from scen_serve.engine import request as engine_request
from scen_serve.engine.decoding import token_offsets
from scen_serve.engine.request import (
    Constraint,
    Ended,
    Event,
    Piece,
    ResponseStream,
    Routed,
    Sampling,
)
from scen_serve.engine.snapshots import ServedSnapshot
from scen_serve.telemetry import RequestRecord

_MAX_ANSWERS = 64  # to all prompts of one request
_MARK = "\ue000"  # a private-use character, which no template contains
_T = TypeVar("_T")


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
    """Submit `num_choices` requests per prompt to the engine, all on one version. Raises ApiError
    400 for an invalid constraint."""
    engine = context.service.engine
    constraint = await _compiled(context, body)
    snapshot = await _find_snapshot(context, body.scen)
    if snapshot is None and (len(prompts) * body.num_choices > 1 or constraint):
        snapshot = engine.snapshot
    is_edited = body.scen.route == "auto"
    is_scored = isinstance(body, CompletionBody) and body.echo and body.logprobs is not None
    if is_scored and constraint is not None:
        raise ApiError(400, "echo: scores of the prompt exclude a form of the answer", param="echo")
    record: RequestRecord = request.state.record
    record.is_edited = is_edited
    if context.traces is not None:
        context.traces.choose(record, _texts(body, prompts))
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
    routes: list[Routed | None] = [None] * len(requests)
    if constraint is not None:
        firsts = requests[:: body.num_choices]
        placed = await _place_answers(context, firsts, constraint, request)
        for index, asked in enumerate(requests):
            fixed, routes[index] = placed[index // body.num_choices]
            sampling = replace(asked.sampling, constraint=fixed)
            requests[index] = replace(asked, sampling=sampling, is_edited=False)
    return ResponseStream(
        engine,
        requests,
        context.settings.timeout_s,
        lambda sink: record.watch(context.metrics.watch(sink)),
        routes,
    )


async def _compiled(context: AppContext, body: AskBody) -> Constraint | None:
    """The request's constraint, compiled off the event loop. Raises ApiError 400 with the name of
    its field."""
    field, constraint = body.constraint
    if constraint is None:
        return None
    try:
        await asyncio.to_thread(context.service.engine.constraints.matcher, constraint)
    except InputError as err:
        raise ApiError(400, f"{field}: {str(err)[:500]}", param=field) from err
    return constraint


async def _place_answers(
    context: AppContext,
    asked: Sequence[engine_request.Request],
    constraint: Constraint,
    request: Request,
) -> list[tuple[Constraint, Routed | None]]:
    """For each request, what constrains it, and its route.

    An expert is trained on its edit's whole answer and repeats itself where another form is forced
    on it. So an edit first answers without the constraint; the base then fills in the rest of the
    form around that answer.
    """
    engine, room = context.service.engine, context.settings.default_tokens
    plain = [
        replace(
            one,
            sampling=Sampling(min(room, engine.max_context - len(one.prompt.ids))),
            scored=None,
        )
        for one in asked
    ]
    stream = ResponseStream(engine, plain, context.settings.timeout_s)
    placed: list[tuple[Constraint, Routed | None]] = []
    for choice in await gather(stream, request, edits_only=True):
        fixed, routed = None, choice.routed
        if routed is not None and routed.edit_id is not None:
            if choice.ended is not None and choice.ended.reason == "stop":
                text = choice.text.strip()
                fixed = await asyncio.to_thread(fix_answer, engine.constraints, constraint, text)
            if fixed is None:
                routed = replace(routed, edit_id=None, span=None, unplaced=routed.edit_id)
        placed.append((fixed or constraint, routed))
    return placed


def _texts(body: AskBody, prompts: Sequence[Prompt]) -> Sequence[Any]:
    """The prompts, in the form recorded in traces."""
    if isinstance(body, ChatBody):
        return [[message.plain() for message in body.messages]]
    return [prompt.text for prompt in prompts]


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
        snapshot = service.engine.snapshot
        if snapshot is not None:  # not on the event loop: it may wait for the store
            await asyncio.to_thread(service.follower.keep, snapshot)
        return snapshot
    return await asyncio.to_thread(service.follower.find, options.version)


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


async def encode_messages(template: Template, messages: Sequence[Message]) -> Prompt:
    """A conversation in the base's own template. Raises InputError for invalid text (a lone
    surrogate), and ConfigError if the template rejects the messages."""
    plain = [message.plain() for message in messages]
    plain[-1]["content"] = plain[-1]["content"].strip()
    return Prompt(await _in_thread(lambda: template.encode_chat(plain)))


async def encode_raw(
    template: Template, prompt: str | list[int], *, add_special_tokens: bool = True
) -> Prompt:
    """Raw text or token ids, without a template; special tokens written out in the text are parsed
    as such. Raises InputError for unknown token ids, invalid text or an empty prompt."""
    return await _in_thread(lambda: _encode_raw(template, prompt, add_special_tokens))


def _encode_raw(template: Template, prompt: str | list[int], add_special_tokens: bool) -> Prompt:
    tokenizer = template.tokenizer
    if isinstance(prompt, str):
        encoding = tokenizer(
            prompt, add_special_tokens=add_special_tokens, return_offsets_mapping=True
        )
        ids, text = list(encoding["input_ids"]), prompt
        offsets = [begin for begin, _ in encoding["offset_mapping"]]
        if ids[:2] == [tokenizer.bos_token_id] * 2:  # the text already begins with BOS
            ids, offsets = ids[1:], offsets[1:]
    else:
        ids = prompt
        known = len(tokenizer)
        if any(not 0 <= token_id < known for token_id in ids):
            raise InputError(f"prompt: token ids are numbers from 0 to {known - 1}")
        text, offsets = token_offsets(tokenizer, ids)
    if not ids:
        raise InputError("prompt: has no tokens")
    question_text, answer_at = _question(template, text)
    try:
        question = template.encode_prompt(question_text)
    except ConfigError:  # contains nothing to route
        question = None
    if question is not None and question.ids == tuple(
        ids
    ):  # the prompt was already in the template
        return Prompt(question, None, text, tuple(offsets), answer_at)
    # Routing reads the question, so all but the prompt's last token may come from the prefix cache.
    raw = EncodedPrompt(tuple(ids), (len(ids) - 1, len(ids)))
    return Prompt(raw, question, text, tuple(offsets), answer_at, question is not None)


def _question(template: Template, text: str) -> tuple[str, int | None]:
    """The question in raw text, and the character at which the answer begins: the user's last
    message and the end of the template around it, or the whole text and None without a template."""
    before, _, after = template.render(_MARK).partition(_MARK)
    specials = template.tokenizer.all_special_tokens
    turn = before[max(0, *(before.rfind(token) for token in specials)) :]
    if turn and after:
        begin = text.rfind(turn) + len(turn)
        end = text.find(after, begin)
        if begin >= len(turn) and end >= 0:
            return text[begin:end].strip(), end + len(after)
    return text.strip(), None


async def _in_thread(encode: Callable[[], _T]) -> _T:
    """Encode off the event loop, as long texts take time."""
    try:
        return await asyncio.to_thread(encode)
    except (UnicodeError, TypeError) as err:
        raise InputError("prompt: is not valid text (lone surrogate?)") from err
