"""The registry as a plain class: what it commits, tells and refuses. No Ray."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest

from scen import __version__
from scen.cluster.registry import Registry
from scen.errors import ConflictError, NotFoundError
from scen.fs import Storage
from scen.ledger.actions import About, Revoke, Rollback
from scen.ledger.ledger import CommitResult, Ledger, WaveCommit, create_or_open, open_ledger
from scen.ledger.manifest import StoreManifest
from scen.ledger.markers import publish
from scen.ledger.view import apply_delta
from scen.records import Edit

T = TypeVar("T")
BASE = {"name": "tiny", "fingerprint": "f" * 64, "template": "plain", "dtype": "float32"}


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    """A store without edits."""
    found = Storage(str(tmp_path / "store"))
    create_or_open(found, StoreManifest.new(BASE, {}, {}))
    return found


def wave(key: str, stream: str = "news", count: int = 2) -> WaveCommit:
    """A wave of edits whose ids begin with its key."""
    edits = [Edit(f"{key}-{i}", f"Who leads {key} {i}?", "t") for i in range(count)]
    return WaveCommit(key, stream, 0, "0" * 64, edits)


def play(storage: Storage, scene: Callable[[Registry], Awaitable[T]]) -> T:
    """What comes of a scene with a registry of a store."""

    async def run() -> T:
        return await scene(Registry(storage.uri))

    return asyncio.run(run())


def test_a_commit_notifies_followers(storage: Storage) -> None:
    async def scene(registry: Registry) -> None:
        assert await registry.commit(wave("a"), 0) == CommitResult(1, False)
        assert await registry.commit(wave("a"), 1) == CommitResult(1, True)
        first = await registry.snapshot()
        assert await registry.commit(wave("b"), 1) == CommitResult(2, False)
        assert (await registry.act(Revoke(["a-0"], About("no")))).version == 3
        assert (await registry.act(Rollback(2), 3)).version == 4
        assert (await registry.snapshot()).id_N.tolist() == ["a-0", "a-1", "b-0", "b-1"]
        assert (await registry.snapshot(3)).id_N.tolist() == ["a-1", "b-0", "b-1"]
        follower = apply_delta(first, await registry.delta(1))
        assert follower.rows() == (await registry.snapshot()).rows()
        assert (await registry.find("b-1")).prompt == "Who leads b 1?"
        assert await registry.lookup("  who leads A 1") == ["a-1"]
        assert await registry.lookup("Who?") == []
        info = await registry.info()
        told = (info["version"], info["active"], info["epoch"], info["code"])
        assert told == (4, 4, 1, __version__)
        metrics = await registry.metrics()
        assert (metrics["commits_since_start"], metrics["conflicts_since_start"]) == (4, 0)

    play(storage, scene)
    assert [entry.epoch for entry in open_ledger(storage).log()] == [1, 1, 1, 1]


def test_each_life_shuts_out_those_before_it(storage: Storage) -> None:
    async def scene(zombie: Registry) -> None:
        await zombie.commit(wave("a"), 0)
        heir = Registry(storage.uri)
        assert (await heir.info())["epoch"] == 2
        with pytest.raises(ConflictError, match="epoch 1 is over"):
            await zombie.commit(wave("b"), 1)
        with pytest.raises(ConflictError, match="epoch 1 is over"):
            await zombie.act(Revoke(["a-0"]))
        assert (await zombie.metrics())["conflicts_since_start"] == 2
        assert (await zombie.snapshot()).version == 1  # it may still be asked
        assert (await heir.commit(wave("b"), 1)).version == 2

    play(storage, scene)


def test_a_stale_writer_gets_an_error(storage: Storage) -> None:
    async def scene(registry: Registry) -> None:
        await registry.commit(wave("a"), 0)
        with pytest.raises(ConflictError, match="expected version 0, found 1"):
            await registry.commit(wave("b"), 0)
        with pytest.raises(NotFoundError):
            await registry.act(Revoke(["zzz"]))
        with pytest.raises(NotFoundError):
            await registry.delta(5)

    play(storage, scene)


def test_of_many_callers_all_are_heard_in_the_end(storage: Storage) -> None:
    async def commit(registry: Registry, key: str) -> None:
        while True:
            version = (await registry.info())["version"]
            try:
                await registry.commit(wave(key), version)
            except ConflictError:
                continue
            return

    async def scene(registry: Registry) -> None:
        await asyncio.gather(*(commit(registry, f"w{i}") for i in range(16)))

    play(storage, scene)
    log = open_ledger(storage).log()
    assert sorted(entry.wave_key for entry in log) == sorted(f"w{i}" for i in range(16))


def test_reads_are_answered_during_a_commit(storage: Storage) -> None:
    """A commit that takes long, in place of a storage that does."""

    class Slow(Ledger):
        def commit(self, commit: WaveCommit, expected_version: int) -> CommitResult:
            time.sleep(1.5)
            return super().commit(commit, expected_version)

    async def scene(registry: Registry) -> None:
        ledger = await registry._open()
        registry._ledger = Slow(storage, ledger.manifest)
        writing = asyncio.create_task(registry.commit(wave("a"), 0))
        await asyncio.sleep(0.05)
        assert (await registry.snapshot()).version == 0
        assert await registry.lookup("Who leads a 1?") == []
        assert not writing.done()
        await writing
        assert (await registry.snapshot()).version == 1

    play(storage, scene)


def test_who_waits_hears_of_every_writer(storage: Storage) -> None:
    async def scene(registry: Registry) -> None:
        assert await registry.wait(-1, 60) == 0
        assert await registry.wait(0, 0.2) == 0
        waiting = [asyncio.create_task(registry.wait(0, 60)) for _ in range(20)]
        await asyncio.sleep(0.05)
        await registry.commit(wave("a"), 0)
        assert await asyncio.gather(*waiting) == [1] * 20
        other = asyncio.create_task(registry.wait(1, 60))
        await asyncio.sleep(0.05)
        await asyncio.to_thread(open_ledger(storage).commit, wave("b"), 1)  # not by the registry
        assert await other == 2

    play(storage, scene)


def test_a_store_that_comes_later_is_found(storage: Storage, tmp_path: Path) -> None:
    later = Storage(str(tmp_path / "later"))

    async def scene(registry: Registry) -> None:
        with pytest.raises(NotFoundError, match="there is no ledger"):
            await registry.info()
        create_or_open(later, StoreManifest.new(BASE, {}, {}))
        assert (await registry.info())["version"] == 0

    play(later, scene)


def test_a_stream_sees_its_own_edits_and_published_ones(storage: Storage) -> None:
    async def scene(registry: Registry) -> None:
        await registry.commit(wave("a", "ann"), 0)
        await registry.commit(wave("b", "bob"), 1)
        assert (await registry.snapshot(stream="ann")).id_N.tolist() == ["a-0", "a-1"]
        assert (await registry.delta(0, "bob")).added.id_N.tolist() == ["b-0", "b-1"]
        assert await registry.lookup("Who leads a 0?", "bob") == []
        rival = Edit("x", "Who leads a 0?", "other")
        assert (await registry.propose([rival], stream="bob")).fresh == (rival,)
        assert (await registry.propose([rival])).fresh == ()
        publish(storage, "ann")
        assert await registry.lookup("Who leads a 0?", "bob") == ["a-0"]
        assert len(await registry.snapshot(stream="bob")) == 4
        assert len(await registry.snapshot(stream="ann")) == 2
        found = await registry.propose([rival], "supersede", "bob")
        assert found.supersedes == {"a-0": "x"}
        assert replace(rival) == found.fresh[0]

    play(storage, scene)
