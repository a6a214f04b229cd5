"""/v1/explain: which edits a conversation is near to, and why one of them would answer, or none.

The base reads the conversation once more for this, on the engine's thread between two steps; no
answer is generated.
"""

import asyncio
from collections.abc import Sequence
from typing import Literal

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field, field_validator

from scen.errors import InputError
from scen.model.batch import pad_prompts
from scen.model.decode import EditedModel
from scen.records import EncodedPrompt
from scen.snapshot.ask import LikelyEdit, likely_edits
from scen_serve.api.access import ApiKey, AppContext
from scen_serve.api.prompts import encode_messages
from scen_serve.api.schema import Message, require_question
from scen_serve.engine.request import BusyError
from scen_serve.engine.snapshots import ServedSnapshot
from scen_serve.service import Service


class ExplainBody(BaseModel):
    """A conversation that ends with the user, and how many edits are wanted. `version` None is the
    one that is served."""

    model_config = ConfigDict(extra="forbid")

    messages: list[Message] = Field(min_length=1, max_length=256)
    version: int | None = Field(default=None, ge=0, lt=1 << 63)
    count: int = Field(default=5, ge=1, le=16)

    @field_validator("messages")
    @classmethod
    def _ends_with_the_user(cls, value: list[Message]) -> list[Message]:
        return require_question(value)


class NearEdit(BaseModel):
    """An edit that the router looked at. `answers`: it is the one that speaks. `span` is the part
    of the last message that is most like it, `similarities` are cosines by view of its key.

    `edit_id` is None for another stream's edit that does not answer; `prompt`, `target`, `stream`
    and `version` are there for keys that may see the edit.
    """

    edit_id: str | None
    score: float
    answers: bool
    span: str
    similarities: dict[str, float]
    stream: str | None = None
    version: int | None = None
    prompt: str | None = None
    target: str | None = None


class Explanation(BaseModel):
    """`nearest` edits, best first. The first answers where its score is above `threshold`; else
    `edit_id` is None and the base answers. `spans` are the parts of the last message that are
    compared with edits, the whole message first."""

    object: Literal["explanation"] = "explanation"
    version: int
    threshold: float
    edit_id: str | None
    spans: list[str]
    nearest: list[NearEdit]


def explain_routes(context: AppContext) -> APIRouter:
    """The route by which a route is explained."""
    router = APIRouter()
    reader = Depends(context.guard("read"))
    service, timeout_s = context.service, context.settings.timeout_s

    @router.post("/v1/explain")
    async def explain(body: ExplainBody, key: ApiKey = reader) -> Explanation:
        """Raises 404 for a version that is not there, 503 where too many wait to be explained."""
        snapshot = service.engine.snapshot
        if body.version is not None:
            snapshot = await asyncio.to_thread(service.follower.find, body.version)
        if snapshot is None:
            raise BusyError("no snapshot of the store is loaded yet; ask again in a moment")
        prompt = (await encode_messages(service.store.base.template, body.messages)).encoded
        _check_length(service, prompt)
        reading = service.engine.between_steps(
            lambda: _nearest(service, snapshot, prompt, body.count)
        )
        try:
            found = await asyncio.wait_for(asyncio.wrap_future(reading), timeout_s)
        except TimeoutError as err:
            raise BusyError(f"no explanation within {timeout_s:g} s; ask again") from err
        return await asyncio.to_thread(_explanation, service, snapshot, prompt, found, key)

    return router


def _check_length(service: Service, prompt: EncodedPrompt) -> None:
    """Raises InputError for a prompt that no request could have."""
    if not 0 < len(prompt.ids) <= service.engine.max_context:
        raise InputError(
            f"messages: {len(prompt.ids)} tokens, but the context has 1 to "
            f"{service.engine.max_context}; shorten the conversation"
        )


def _nearest(
    service: Service, snapshot: ServedSnapshot, prompt: EncodedPrompt, count: int
) -> tuple[LikelyEdit, ...]:
    """Runs the base: on the engine's thread only."""
    base = service.store.base
    edited = EditedModel(
        base.model,
        service.store.method.layer,
        service.engine.experts.bank,
        snapshot.neurons,
        base.pad_id,
        base.stop_ids,
    )
    filled = edited.prefill(pad_prompts([prompt], base.pad_id, base.device))
    return likely_edits(edited, filled, 0, snapshot.edit_ids, count)


def _explanation(
    service: Service,
    snapshot: ServedSnapshot,
    prompt: EncodedPrompt,
    found: Sequence[LikelyEdit],
    key: ApiKey,
) -> Explanation:
    threshold = service.store.threshold
    answering = found[0].edit_id if found and found[0].score > threshold else None
    routed = prompt.routed or prompt
    return Explanation(
        version=snapshot.version,
        threshold=threshold,
        edit_id=answering,
        spans=list(routed.texts),
        nearest=[
            _near_edit(service, snapshot, one, one.edit_id == answering, key) for one in found
        ],
    )


def _near_edit(
    service: Service, snapshot: ServedSnapshot, one: LikelyEdit, answers: bool, key: ApiKey
) -> NearEdit:
    entry = service.store.ledger.snapshot(snapshot.version).state.entries[one.edit_id]
    may_touch = key.may_touch(entry.stream)
    near = NearEdit(
        edit_id=one.edit_id if answers or may_touch else None,
        score=one.score,
        answers=answers,
        span=one.span,
        similarities=dict(one.similarities),
    )
    if not (may_touch and key.may("edit")):
        return near
    edit = entry.edit
    facts = {"stream": entry.stream, "version": entry.version}
    return near.model_copy(update=facts | {"prompt": edit.prompt, "target": edit.target})
