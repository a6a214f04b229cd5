"""/v1/snapshots: which versions there are, and which one is served."""

import asyncio
from typing import Any

from fastapi import APIRouter, Depends

from scen.errors import NotFoundError
from scen.ledger.ledger import Ledger
from scen_serve.access import ApiKey
from scen_serve.context import AppContext
from scen_serve.schema import CanaryBody
from scen_serve.served import ServedSnapshot

_RECENT = 5


def snapshot_routes(context: AppContext) -> APIRouter:
    """The routes by which versions are seen and chosen."""
    router = APIRouter(prefix="/v1/snapshots")
    service = context.service
    follower = service.follower
    reader, admin = Depends(context.guard("read")), Depends(context.guard("admin"))

    @router.get("")
    async def snapshots(key: ApiKey = reader) -> dict[str, Any]:
        newest = await asyncio.to_thread(service.store.ledger.version)
        recent = await asyncio.to_thread(_recent, service.store.ledger, key)
        told = {"object": "list", "newest": newest, "data": list(range(newest + 1))}
        return told | {"recent": recent} | state()

    @router.post("/{version}:activate")
    async def activate(version: str, key: ApiKey = admin) -> dict[str, Any]:
        """A number stays until another is activated; `latest` follows the ledger again."""
        wanted = None if version == "latest" else _number(version)
        await asyncio.to_thread(follower.activate, wanted, key.name)
        return state()

    @router.post("/{version}:canary")
    async def canary(version: str, body: CanaryBody, key: ApiKey = admin) -> dict[str, Any]:
        """A share of the requests goes to this version, the others stay on the one of now, until a
        version is activated."""
        wanted = _number(version)
        await asyncio.to_thread(follower.try_candidate, wanted, body.share, key.name)
        return state()

    def state() -> dict[str, Any]:
        served: ServedSnapshot | None = service.engine.snapshot
        return {
            "served": None if served is None else served.version,
            "edits": None if served is None else len(served.places),
            "held": follower.held,
            "candidate": follower.policy.candidate,
            "share": follower.policy.share,
            "follows": follower.pace.follows,
            "error": follower.error,
        }

    return router


def _recent(ledger: Ledger, key: ApiKey) -> list[dict[str, Any]]:
    """The last commits that are the key's business, the newest first."""
    seen = [one for one in ledger.log() if all(map(key.may_touch, one.stream.split(", ")))]
    return [
        {
            "version": one.version,
            "action": one.action,
            "stream": one.stream,
            "edits": one.num_edits,
            "at": one.committed_at.isoformat(timespec="seconds"),
        }
        for one in seen[: -_RECENT - 1 : -1]
    ]


def _number(version: str) -> int:
    """The version in a path. Raises NotFoundError."""
    if not (version.isascii() and version.isdigit()):
        raise NotFoundError(f"snapshot: {version[:40]!r} is neither a version nor latest")
    if len(version) > 18:
        raise NotFoundError("snapshot: there are not so many versions")
    return int(version)
