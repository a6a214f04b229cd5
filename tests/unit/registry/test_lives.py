"""Any interleaving of what may happen to edits ends where the sequential model ends."""

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
from scen.registry.actions import Expire, Revoke, Rollback, WaveCommit
from scen.registry.ledger import create_or_open
from scen.registry.manifest import StoreManifest
from unit.registry.lives import CrashingLedger, Model, PureLedger, day, wave_of

DAYS = st.integers(0, 5)


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

    @rule(count=st.integers(1, 3), until=st.none() | DAYS, data=st.data())
    def commit(self, count: int, until: int | None, data: Any) -> None:
        older = self.some(data, 0) if self.model.active else []
        self.waves.append(wave_of(len(self.waves), count, until, older))
        self.model.commit(self.waves[-1])
        assert self.ledger.commit(self.waves[-1]) == len(self.model.versions) - 1

    @precondition(lambda self: self.model.active)
    @rule(data=st.data())
    def revoke(self, data: Any) -> None:
        self.act(Revoke(self.some(data, 1)))

    @precondition(lambda self: len(self.model.order) > len(self.model.active))
    @rule(data=st.data())
    def revoke_what_is_gone(self, data: Any) -> None:
        gone = [name for name in self.model.order if name not in self.model.active]
        with pytest.raises(ConfigError, match="cannot be revoked"):
            self.ledger.act(Revoke([data.draw(st.sampled_from(gone)), *self.model.active]))

    @rule(moment=DAYS)
    def expire(self, moment: int) -> None:
        self.act(Expire(day(moment)))

    @rule(data=st.data())
    def rollback(self, data: Any) -> None:
        self.act(Rollback(data.draw(st.integers(0, len(self.model.versions) - 1))))

    def act(self, action: Revoke | Expire | Rollback) -> None:
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
            assert tuple(self.ledger.snapshot(version).ids) == ids


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
        assert wave.edits[0].id in self.model.versions[version]
        assert wave.edits[0].id not in self.model.versions[version - 1]

    def teardown(self) -> None:
        super().teardown()
        self.folder.cleanup()


def test_the_state_machine() -> None:
    run_state_machine_as_test(Lives, settings=settings(max_examples=150, deadline=None))


def test_the_ledger_on_storage() -> None:
    quick = settings(
        max_examples=6,
        stateful_step_count=10,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(StoredLives, settings=quick)
