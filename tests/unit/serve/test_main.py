"""What a server's arguments ask for is what its engine does."""

import pydantic
import pytest

from scen.snapshot.open import OpenStore
from scen_serve.main import build_service
from scen_serve.settings import ServerArgs


@pytest.mark.parametrize("kept", [0, 1 << 20])
def test_as_many_bytes_are_kept_as_are_asked_for(store: OpenStore, kept: int) -> None:
    service = build_service(ServerArgs(store=store.storage.uri, prefix_bytes=kept))
    assert service.engine.prefixes.max_bytes == kept
    service.stop()


def test_fewer_bytes_than_none_are_refused() -> None:
    with pytest.raises(pydantic.ValidationError, match="prefix_bytes"):
        ServerArgs(store="x", prefix_bytes=-1)
