"""What was remarked of an edit is told to whoever handed it in, over real HTTP."""

import httpx
import pytest

from e2e.serving import service, store, url
from scen.data import Rejection
from scen.data.inbox import Inbox
from scen.snapshot.open import OpenStore
from unit.serve.conftest import commit_wave

__all__ = ["service", "store", "url"]  # fixtures

pytestmark = pytest.mark.e2e
ROOT = {"Authorization": "Bearer sk-root-123"}


def test_remarks_are_told_of_what_is_committed_and_of_what_is_rejected(
    url: str, store: OpenStore
) -> None:
    def tell(edit_id: str) -> dict[str, object]:
        found: dict[str, object] = httpx.get(
            f"{url}/v1/edits/{edit_id}?stream=stream", headers=ROOT
        ).json()
        return found

    for name in ("rome", "roma"):
        body = {"id": name, "prompt": f"Who leads {name}?", "target": "Ann", "stream": "stream"}
        httpx.post(f"{url}/v1/edits", json=body, headers=ROOT)
        assert "remarks" not in tell(name)  # it waits
    inbox = Inbox(store.storage, "stream")
    inbox.cut(0, inbox.waiting())
    commit_wave(store, inbox.edits(0)[:1], 2)
    reaches = "the prompt of edit rome also reaches edit edit-3"
    inbox.end(0, [Rejection(2, "roma", "prompt", "too near", "")], {"rome": [reaches]})
    assert tell("rome")["remarks"] == [reaches]
    assert tell("rome")["status"] in ("committed", "served")
    rejected = tell("roma")
    assert (rejected["status"], rejected["reason"], rejected["remarks"]) == (
        "rejected",
        "too near",
        [],
    )
