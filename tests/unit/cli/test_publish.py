"""`scen publish` and `scen unpublish`, as the registry sees them."""

import asyncio
from pathlib import Path

import pytest

from scen.cli.main import main
from scen.cluster.registry import Registry
from unit.cli.test_life import store, told

__all__ = ["store"]  # a fixture: stream s0 has a1 and a2, stream s1 has b0


def seen(store: str, stream: str) -> list[str]:
    """The edits that a stream sees."""
    ids: list[str] = asyncio.run(Registry(store).snapshot(stream=stream)).id_N.tolist()
    return ids


def test_a_published_stream_is_seen_by_all(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert (seen(store, "s0"), seen(store, "s1")) == (["a1", "a2"], ["b0"])
    for _ in range(2):  # again is the same
        found = told(capsys, "publish", "s0", "--store", store)
        assert found == {"action": "publish", "stream": "s0", "published": ["s0"]}
    assert (seen(store, "s0"), seen(store, "s1")) == (["a1", "a2"], ["a1", "a2", "b0"])
    assert main(["publish", "s1", "--store", store]) == 0
    assert capsys.readouterr().out == "published  s0, s1\n"
    assert told(capsys, "unpublish", "s0", "--store", store)["published"] == ["s1"]
    assert (seen(store, "s0"), seen(store, "s1")) == (["a1", "a2", "b0"], ["b0"])
    assert main(["unpublish", "s1", "--store", store]) == 0
    assert capsys.readouterr().out == "published  no stream\n"


@pytest.mark.parametrize("command", ["publish", "unpublish"])
def test_a_stream_that_is_not_there(
    store: str, capsys: pytest.CaptureFixture[str], command: str, tmp_path: Path
) -> None:
    assert main([command, "s00", "--store", store]) == 5
    assert "'s00' has no edits in this store; did you mean s0?" in capsys.readouterr().err
    assert main([command, "../x", "--store", store]) == 5
    assert "there are s0, s1" in capsys.readouterr().err
    assert main([command, "s0", "--store", str(tmp_path / "none")]) == 5
    assert not list(tmp_path.rglob("published"))
