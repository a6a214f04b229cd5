"""The registry as a named actor of a real Ray: killed, hung and replaced amid commits.

SCEN_TEST_KILLS=50 kills it as often; `-s` shows how long it took to come back.
"""

import os
import signal
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scen.cluster.registry import RegistryClient
from scen.cluster.session import NAMESPACE, registry_name
from scen.errors import ConflictError, NotFoundError
from scen.fs import Storage
from scen.ledger.actions import About, Revoke
from scen.ledger.ledger import WaveCommit, create_or_open, open_ledger
from scen.ledger.manifest import StoreManifest
from scen.records import Edit

pytestmark = pytest.mark.cluster
BASE = {"name": "tiny", "fingerprint": "f" * 64, "template": "plain", "dtype": "float32"}
KILLS = int(os.environ.get("SCEN_TEST_KILLS", "3"))


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    """A store without edits."""
    found = Storage(str(tmp_path / "store"))
    create_or_open(found, StoreManifest.new(BASE, {}, {}))
    return found


@pytest.fixture
def client(ray: Any, storage: Storage) -> Iterator[RegistryClient]:
    """A client; its registry ends with the test."""
    yield RegistryClient(storage.uri, timeout_s=60)
    ray.kill(ray.get_actor(registry_name(storage.uri), NAMESPACE), no_restart=True)


def wave(key: str) -> WaveCommit:
    """A wave of two edits."""
    edits = [Edit(f"{key}-{i}", f"Who leads {key} {i}?", "t") for i in range(2)]
    return WaveCommit(key, "news", 0, "0" * 64, edits)


def commit(client: RegistryClient, key: str) -> None:
    """Commit a wave, whoever else commits."""
    while True:
        try:
            client.call("commit", wave(key), client.call("info")["version"])
        except ConflictError:
            continue
        return


def test_the_registry_of_a_store_is_one_whoever_asks(
    client: RegistryClient, storage: Storage
) -> None:
    commit(client, "a")
    other = RegistryClient(storage.uri)
    assert other.call("info")["pid"] == client.call("info")["pid"] != os.getpid()
    assert other.call("snapshot").rows() == client.call("snapshot").rows()
    assert other.call("snapshot").id_N.tolist() == ["a-0", "a-1"]
    assert other.call("find", "a-1").prompt == "Who leads a 1?"
    with pytest.raises(ConflictError, match="expected version 0, found 1"):
        other.call("commit", wave("b"), 0)
    with pytest.raises(NotFoundError, match="'zzz'"):
        other.call("act", Revoke(["zzz"], About("no")))
    heard: list[int] = []
    follower = threading.Thread(target=lambda: heard.append(other.wait(1, 60)))
    follower.start()
    assert client.call("act", Revoke(["a-0"], About("no"))).version == 2
    follower.join(60)
    assert heard == [2]


def test_killed_again_and_again_under_a_load_of_commits(
    client: RegistryClient, storage: Storage
) -> None:
    pids, seconds, keys = set[int](), [], iter(range(10_000))
    done: list[str] = []
    is_over = threading.Event()

    def load() -> None:
        mine = RegistryClient(storage.uri)
        while not is_over.is_set():
            key = f"w{next(keys)}"
            commit(mine, key)
            done.append(key)

    commit(client, "first")
    thread = threading.Thread(target=load)
    thread.start()
    for _ in range(KILLS):
        pid = client.call("info")["pid"]
        pids.add(pid)
        count = len(done)
        os.kill(pid, signal.SIGKILL)
        began = time.monotonic()
        while client.call("info")["pid"] == pid:
            time.sleep(0.01)
        seconds.append(time.monotonic() - began)
        while len(done) == count:  # the load has gone on
            time.sleep(0.01)
    is_over.set()
    thread.join(120)
    sys.stdout.write(f"{KILLS} kills, median recovery {statistics.median(seconds):.2f} s\n")
    assert len(pids) == KILLS
    ledger = open_ledger(storage)
    assert [entry.wave_key for entry in ledger.log()] == ["first", *done]
    assert ledger.snapshot().ids == [f"{key}-{i}" for key in ["first", *done] for i in range(2)]
    epochs = [entry.epoch or 0 for entry in ledger.log()]
    assert epochs == sorted(epochs)
    assert client.call("info")["epoch"] == KILLS + 1


def test_a_registry_that_hangs_is_replaced(client: RegistryClient, storage: Storage) -> None:
    commit(client, "a")
    pid = client.call("info")["pid"]
    os.kill(pid, signal.SIGSTOP)
    hasty = RegistryClient(storage.uri, timeout_s=2)
    assert hasty.call("info")["pid"] != pid
    commit(hasty, "b")
    assert open_ledger(storage).snapshot().ids == ["a-0", "a-1", "b-0", "b-1"]


def test_a_registry_is_replaced_by_the_code_of_its_caller(
    client: RegistryClient, storage: Storage
) -> None:
    commit(client, "a")
    before = client.call("info")
    after = client.replace()
    assert (after["pid"] != before["pid"], after["epoch"]) == (True, before["epoch"] + 1)
    commit(RegistryClient(storage.uri), "b")
    assert open_ledger(storage).version() == 2
