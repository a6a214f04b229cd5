"""Each writer that claims an epoch shuts out those before it."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from scen.errors import ConflictError
from scen.fs import Storage
from scen.registry.actions import About, Revoke
from scen.registry.epochs import claim_epoch, newest_epoch
from scen.registry.ledger import CommitResult, Ledger, WaveCommit, open_ledger


def test_epochs_are_claimed_once(storage: Storage) -> None:
    assert newest_epoch(storage) == 0
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda _: claim_epoch(storage), range(12)))
    assert sorted(found) == list(range(1, 13))
    assert newest_epoch(storage) == 12


def test_a_zombie_is_refused_before_its_successor_has_written_anything(
    ledger: Ledger, storage: Storage, make_wave: Callable[..., WaveCommit]
) -> None:
    zombie = claim_epoch(storage)
    assert ledger.commit(replace(make_wave("a"), epoch=zombie), 0) == CommitResult(1, False)
    heir = claim_epoch(storage)
    files = storage.names("ledger")
    with pytest.raises(ConflictError, match=f"epoch {zombie} is over, a writer of epoch {heir}"):
        ledger.commit(replace(make_wave("b"), epoch=zombie), 1)
    with pytest.raises(ConflictError, match="this writer must end"):
        ledger.settle(Revoke(["a-0"], About(epoch=zombie)))
    assert storage.names("ledger") == files
    done = open_ledger(storage).commit(replace(make_wave("b"), epoch=heir), 1)
    assert (done, ledger.epoch()) == (CommitResult(2, False), heir)
