"""/v1/snapshots: which versions there are, and which one is served."""

import asyncio
from typing import Any

from fastapi import APIRouter, Depends

from scen.errors import NotFoundError
from scen_serve.context import AppContext
from scen_serve.served import ServedSnapshot


def snapshot_routes(context: AppContext) -> APIRouter:
    """The routes by which versions are seen and chosen."""
    router = APIRouter(prefix="/v1/snapshots")
    service = context.service

    @router.get("", dependencies=[Depends(context.guard("read"))])
    async def snapshots() -> dict[str, Any]:
        newest = await asyncio.to_thread(service.store.ledger.version)
        return {"object": "list", "newest": newest, "data": list(range(newest + 1))} | state()

    @router.post("/{version}:activate", dependencies=[Depends(context.guard("admin"))])
    async def activate(version: str) -> dict[str, Any]:
        """A number stays until another is activated; `latest` follows the ledger again."""
        if version != "latest" and not (version.isascii() and version.isdigit()):
            raise NotFoundError(f"snapshot: {version[:40]!r} is neither a version nor latest")
        if len(version) > 18:
            raise NotFoundError("snapshot: there are not so many versions")
        wanted = None if version == "latest" else int(version)
        await asyncio.to_thread(service.follower.activate, wanted)
        return state()

    def state() -> dict[str, Any]:
        served: ServedSnapshot | None = service.engine.snapshot
        return {
            "served": None if served is None else served.version,
            "edits": None if served is None else len(served.places),
            "held": service.follower.held,
            "error": service.follower.error,
        }

    return router
