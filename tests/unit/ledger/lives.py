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


def wave_of(
    index: int, count: int, until: int | None, supersedes: Sequence[str], start: int | None = None
) -> WaveCommit:
    """A wave of new edits at day 0; its first takes the place of others. With a `start`, all are
    scheduled, about one of three prompts, and take nobody's place yet."""
    first, last = (None if number is None else day(number) for number in (start, until))
    prompts = [f"q {index if start is None else index % 3} {i}" for i in range(count)]
    edits = [
        Edit(f"e{index}-{i}", prompt, "t", valid_from=first, valid_until=last)
        for i, prompt in enumerate(prompts)
    ]
    places = dict.fromkeys(supersedes if start is None else (), edits[0].id)
    return WaveCommit(f"w{index}", "s", index, "0" * 64, edits, supersedes=places, as_of=START)


@dataclass
class Model:
    """What is active, as a plain list in the order of commits, at every version so far."""

    order: list[str] = field(default_factory=list)
    edits: dict[str, Edit] = field(default_factory=dict)
    status: dict[str, str] = field(default_factory=dict)
    versions: list[tuple[str, ...]] = field(default_factory=lambda: [()])
    waiting: list[tuple[str, ...]] = field(default_factory=lambda: [()])
    dropped: set[str] = field(default_factory=set)

    @property
    def active(self) -> tuple[str, ...]:
        """What is active now."""
        return self.those("active")

    def those(self, status: str) -> tuple[str, ...]:
        """The edits of one status."""
        return tuple(name for name in self.order if self.status[name] == status)

    def commit(self, wave: WaveCommit) -> None:
        """A wave becomes the next version."""
        for edit in wave.edits:
            self.order.append(edit.id)
            is_later = edit.valid_from is not None and edit.valid_from > START
            self.edits[edit.id] = edit
            self.status[edit.id] = "scheduled" if is_later else "active"
        self.status |= dict.fromkeys(wave.supersedes, "superseded")
        self.note()

    def note(self) -> None:
        """This is a version."""
        self.versions.append(self.active)
        self.waiting.append(self.those("scheduled"))

    def can_go_to(self, version: int) -> bool:
        """False where an expert that would have to come back was deleted."""
        wanted = {*self.versions[version], *self.waiting[version]}
        back = wanted - {*self.active, *self.those("scheduled")}
        return not back & self.dropped

    def act(self, action: Action) -> None:
        """Anything else becomes the next version, unless it changes nothing."""
        before = dict(self.status)
        if isinstance(action, Revoke):
            self.status |= dict.fromkeys(action.edit_ids, "revoked")
        elif isinstance(action, Expire):
            self.tick(action.moment)
        elif isinstance(action, Rollback):
            wanted, waiting = self.versions[action.to], self.waiting[action.to]
            now = {*self.active, *self.those("scheduled")}
            self.status |= {n: "revoked" for n in now if n not in (*wanted, *waiting)}
            self.status |= dict.fromkeys(wanted, "active") | dict.fromkeys(waiting, "scheduled")
        elif isinstance(action, Drop):
            self.dropped |= set(action.edit_ids)
        if self.status != before or isinstance(action, Drop):
            self.note()

    def tick(self, moment: datetime) -> None:
        """The timer: what is over goes; what starts takes the place of its prompt's edit."""
        valid = (*self.active, *self.those("scheduled"))
        due = [n for n in valid if (until := self.edits[n].valid_until) and until <= moment]
        self.status |= dict.fromkeys(due, "expired")
        starting = [n for n in self.those("scheduled") if self.start(n) <= moment]
        for name in sorted(starting, key=self.start):
            prompt = self.edits[name].prompt
            older = [n for n in self.active if self.edits[n].prompt == prompt]
            self.status |= dict.fromkeys(older, "superseded") | {name: "active"}

    def start(self, name: str) -> datetime:
        """When an edit starts to be valid."""
        return self.edits[name].valid_from or START


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
