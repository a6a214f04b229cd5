"""A sequential model of a ledger, and the two things that are held against it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from scen.errors import ConflictError
from scen.fs import Storage
from scen.ledger.actions import (
    Action,
    Drop,
    Expire,
    Revoke,
    Rollback,
    WaveCommit,
    action_events,
    wave_events,
)
from scen.ledger.ledger import open_ledger
from scen.ledger.state import Snapshot, State, fold
from scen.records import Edit

START = datetime(2026, 1, 1, tzinfo=UTC)


def day(number: int) -> datetime:
    """A moment."""
    return START + timedelta(days=number)


def wave_of(index: int, count: int, until: int | None, supersedes: Sequence[str]) -> WaveCommit:
    """A wave of new edits; its first takes the place of others."""
    moment = None if until is None else day(until)
    edits = [Edit(f"e{index}-{i}", f"q {index} {i}", "t", valid_until=moment) for i in range(count)]
    places = dict.fromkeys(supersedes, edits[0].id)
    return WaveCommit(f"w{index}", "s", index, "0" * 64, edits, supersedes=places)


@dataclass
class Model:
    """What is active, as a plain list in the order of commits, at every version so far."""

    order: list[str] = field(default_factory=list)
    until: dict[str, datetime | None] = field(default_factory=dict)
    status: dict[str, str] = field(default_factory=dict)
    versions: list[tuple[str, ...]] = field(default_factory=lambda: [()])
    dropped: set[str] = field(default_factory=set)

    @property
    def active(self) -> tuple[str, ...]:
        """What is active now."""
        return tuple(name for name in self.order if self.status[name] == "active")

    def commit(self, wave: WaveCommit) -> None:
        """A wave becomes the next version."""
        for edit in wave.edits:
            self.order.append(edit.id)
            self.until[edit.id], self.status[edit.id] = edit.valid_until, "active"
        self.status |= dict.fromkeys(wave.supersedes, "superseded")
        self.versions.append(self.active)

    def can_go_to(self, version: int) -> bool:
        """False where an expert that would have to come back was deleted."""
        back = set(self.versions[version]) - set(self.active)
        return not back & self.dropped

    def act(self, action: Action) -> None:
        """Anything else becomes the next version, unless it changes nothing."""
        before = self.active
        if isinstance(action, Revoke):
            self.status |= dict.fromkeys(action.edit_ids, "revoked")
        elif isinstance(action, Expire):
            due = [n for n in before if (until := self.until[n]) and until <= action.moment]
            self.status |= dict.fromkeys(due, "expired")
        elif isinstance(action, Rollback):
            wanted = self.versions[action.to]
            self.status |= {n: "revoked" for n in before if n not in wanted}
            self.status |= dict.fromkeys(wanted, "active")
        elif isinstance(action, Drop):
            self.dropped |= set(action.edit_ids)
        if self.active != before or isinstance(action, Drop):
            self.versions.append(self.active)


class PureLedger:
    """The state machine alone: a list of states, one per version."""

    def __init__(self) -> None:
        self.states = [State()]

    @property
    def version(self) -> int:
        """The newest version."""
        return len(self.states) - 1

    def commit(self, wave: WaveCommit) -> int:
        """The version that holds a wave."""
        state = self.states[-1]
        self.states.append(fold(state, wave_events(wave, state, self.version + 1, START)))
        return self.version

    def act(self, action: Action) -> int:
        """The version after an action."""
        state = self.states[-1]
        target = self.states[action.to] if isinstance(action, Rollback) else state
        events = action_events(action, state, self.version + 1, target)
        if events:
            self.states.append(fold(state, events))
        return self.version

    def snapshot(self, version: int) -> Snapshot:
        """What is active at a version."""
        return Snapshot(version, self.states[version])


class CrashingLedger:
    """A ledger on disk whose writers die: before they write, amid it, and after it. The first tries
    on an old version, the next leaves its data without a line in the log, and one more writes and
    is not heard of again; the last does what was meant."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._reader = open_ledger(storage)  # reads on and on, never anew

    @property
    def version(self) -> int:
        """The newest version."""
        return self._reader.version()

    def commit(self, wave: WaveCommit) -> int:
        """A stale try, a write whose answer is lost, and the retry of another process."""
        version = self.version
        if version > 0 and self._reader.is_committed(wave.wave_key) is None:
            try:
                open_ledger(self._storage).commit(wave, version - 1)
            except ConflictError:
                pass
            else:
                raise AssertionError("a stale commit was taken")
        self._die_amid()
        open_ledger(self._storage).commit(wave, version)
        again = open_ledger(self._storage).commit(wave, version)
        assert again.already_committed
        return again.version

    def act(self, action: Action) -> int:
        """The same for an action."""
        self._die_amid()
        first = open_ledger(self._storage).settle(action)
        assert open_ledger(self._storage).settle(action).version >= first.version
        return first.version

    def _die_amid(self) -> None:
        data = [name for name in self._storage.names("ledger") if name.endswith(".parquet")]
        if data:
            name = f"ledger/part-{len(data):05d}-cut-off.parquet"
            self._storage.put_new(name, self._storage.read(data[-1]))

    def snapshot(self, version: int) -> Snapshot:
        """As a process that has read before and one that has not see it."""
        found = self._reader.snapshot(version)
        assert found == open_ledger(self._storage).snapshot(version)
        return found
