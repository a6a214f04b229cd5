"""Any interleaving of what may happen to edits ends where the sequential model ends.

SCEN_TEST_LIVES=200 tries as many on storage (default 12).
"""

import os
import tempfile
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from scen.errors import ConfigError
from scen.fs import Storage
from scen.ledger.actions import Action, Drop, Expire, Revoke, Rollback, WaveCommit
from scen.ledger.ledger import create_or_open
from scen.ledger.manifest import StoreManifest
from scen.ledger.verify import verify_ledger
from unit.ledger.lives import CrashingLedger, Model, PureLedger, day, wave_of

DAYS = st.integers(0, 5)
STORED = int(os.environ.get("SCEN_TEST_LIVES", "12"))


class Lives(RuleBasedStateMachine):
    """Edits come and go on a ledger and on the model, side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.ledger: PureLedger | CrashingLedger = self.make()
        self.waves: list[WaveCommit] = []

    def make(self) -> PureLedger | CrashingLedger:
        """The ledger under test."""
        return PureLedger()

    def some(self, data: Any, least: int) -> list[str]:
        """Some of the active edits."""
        chosen = st.lists(st.sampled_from(self.model.active), min_size=least, unique=True)
        found: list[str] = data.draw(chosen)
        return found

    @rule(
        count=st.integers(1, 3),
        until=st.none() | DAYS,
        start=st.none() | st.integers(1, 4),
        data=st.data(),
    )
    def commit(self, count: int, until: int | None, start: int | None, data: Any) -> None:
        older = self.some(data, 0) if self.model.active and start is None else []
        self.waves.append(wave_of(len(self.waves), count, until, older, start))
        self.model.commit(self.waves[-1])
        assert self.ledger.commit(self.waves[-1]) == len(self.model.versions) - 1

    @precondition(lambda self: self.model.active)
    @rule(data=st.data())
    def revoke(self, data: Any) -> None:
        self.act(Revoke([*self.some(data, 1), *self.model.those("scheduled")[:1]]))

    @precondition(lambda self: self.gone())
    @rule(data=st.data())
    def revoke_what_is_gone(self, data: Any) -> None:
        gone = self.gone()
        with pytest.raises(ConfigError, match="cannot be revoked"):
            self.ledger.act(Revoke([data.draw(st.sampled_from(gone)), *self.model.active]))

    @rule(moment=DAYS)
    def expire(self, moment: int) -> None:
        self.act(Expire(day(moment)))

    @rule(data=st.data())
    def rollback(self, data: Any) -> None:
        version = data.draw(st.integers(0, len(self.model.versions) - 1))
        if self.model.can_go_to(version):
            self.act(Rollback(version))
            return
        with pytest.raises(ConfigError, match="was deleted by `scen gc`"):
            self.ledger.act(Rollback(version))

    @precondition(lambda self: self.gone_and_there())
    @rule(data=st.data())
    def drop(self, data: Any) -> None:
        chosen = st.lists(st.sampled_from(self.gone_and_there()), min_size=1, unique=True)
        self.act(Drop(data.draw(chosen)))

    @precondition(lambda self: self.model.active)
    @rule(data=st.data())
    def drop_what_is_active(self, data: Any) -> None:
        with pytest.raises(ConfigError, match="so it cannot be dropped"):
            self.ledger.act(Drop([*self.gone_and_there(), *self.some(data, 1)]))

    def gone_and_there(self) -> list[str]:
        """Edits that are not active and whose experts are not deleted."""
        return [name for name in self.gone() if name not in self.model.dropped]

    def gone(self) -> list[str]:
        """Edits that are neither active nor scheduled."""
        valid = {"active", "scheduled"}
        return [name for name in self.model.order if self.model.status[name] not in valid]

    def act(self, action: Action) -> None:
        """Do the same on both."""
        self.model.act(action)
        assert self.ledger.act(action) == len(self.model.versions) - 1

    @invariant()
    def the_newest_version_is_the_model_s(self) -> None:
        assert self.ledger.version == len(self.model.versions) - 1
        snapshot = self.ledger.snapshot(self.ledger.version)
        assert tuple(snapshot.ids) == self.model.active
        told = {name: gone.status for name, gone in snapshot.state.gone.items()}
        assert told == {n: s for n, s in self.model.status.items() if s != "active"}

    def teardown(self) -> None:
        for version, ids in enumerate(self.model.versions):
            snapshot = self.ledger.snapshot(version)
            assert tuple(snapshot.ids) == ids
            waiting = tuple(entry.edit_id for entry in snapshot.state.scheduled)
            assert waiting == self.model.waiting[version]


class StoredLives(Lives):
    """The same on storage, with writers that die and are late."""

    def make(self) -> CrashingLedger:
        self.folder = tempfile.TemporaryDirectory()
        storage = Storage(self.folder.name)
        base = {"name": "tiny", "fingerprint": "f" * 64, "template": "raw", "dtype": "float32"}
        create_or_open(storage, StoreManifest.new(base, {}, {}))
        return CrashingLedger(storage)

    @precondition(lambda self: self.waves)
    @rule(data=st.data())
    def commit_again(self, data: Any) -> None:
        wave = data.draw(st.sampled_from(self.waves))
        version = self.ledger.commit(wave)
        name, model = wave.edits[0].id, self.model
        assert name in (*model.versions[version], *model.waiting[version])
        assert name not in (*model.versions[version - 1], *model.waiting[version - 1])

    def teardown(self) -> None:
        super().teardown()
        found = verify_ledger(Storage(self.folder.name))
        assert [finding for finding in found if finding.is_damage] == []
        self.folder.cleanup()


@pytest.mark.slow
def test_the_state_machine() -> None:
    run_state_machine_as_test(Lives, settings=settings(max_examples=150, deadline=None))


@pytest.mark.slow
def test_the_ledger_on_storage() -> None:
    quick = settings(
        max_examples=STORED,
        stateful_step_count=10,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(StoredLives, settings=quick)
