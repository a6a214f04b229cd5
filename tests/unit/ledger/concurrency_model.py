"""The protocol of a store as a state machine: writers, readers and `scen gc`, which may all die.

A step is one operation on storage, the unit that a backend makes atomic. Between any two steps
every other process may run, and any process may die and start again without what it had in memory.

| process | steps | in the code |
|---|---|---|
| writer | count, claim | `markers.claim_epoch`: `newest_epoch`, then `Storage.put_new` |
| | save | `tensors.save_bundle` |
| | read | `waves.commit_wave`: `Ledger.snapshot`, then `admit`; or `Ledger.settle` |
| | open, fence | `Ledger.commit`, `Ledger.act`: `open_table`, `require_version`; `require_epoch` |
| | append | `rows.append`: compare-and-set (`max_commit_retries=0`) |
| | answer | the caller learns the version |
| | back | a writer whose action is `Rollback(1)`, by `Ledger.settle` |
| gc | start, marks, list | `collect.plan_collection`: `kept_versions`, `used_versions`, events |
| | open, append | `collect.collect`: `Ledger.settle(Drop)` |
| | again, delete | `collect.collect`: `used_versions` again, then `Storage.delete`, by file |
| reader | look, lease | `Follower` of a server: the version to be served, then `Lease.take` |
| | confirm, release | `Ledger.require_experts`, then `Lease.hold` |

Left out, with what stands in for it: time. A lease of a live reader is renewed before it ends, the
lease of a dead one ends at any moment; a bundle that no commit names yet is younger than a day, so
that gc leaves it alone; gc retains the newest version and what is leased (`--keep-days 0`).
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

Event = tuple[str, str]  # kind, edit


class Commit(NamedTuple):
    """One version of the log; `epoch` 0 is a writer that has none."""

    key: str
    events: tuple[Event, ...]
    epoch: int = 0


Log = tuple[Commit, ...]


class Process(NamedTuple):
    """A program, where it is in it (`at`), and what it has in memory."""

    program: str
    at: str
    epoch: int = 0
    seen: int = 0  # the version that it read
    held: int = 0  # reader: the version that it serves
    marks: frozenset[int] = frozenset()
    drops: tuple[str, ...] = ()  # gc: the edits whose experts go
    names: tuple[str, ...] = ()  # gc: the bundles to delete


class World(NamedTuple):
    """Storage, processes, and what callers were told: wave keys with their versions."""

    log: Log
    epochs: int
    bundles: frozenset[str]
    leases: frozenset[tuple[int, int]]  # holder, version
    answers: frozenset[tuple[str, int]]
    processes: tuple[Process, ...]
    crashes: int


@dataclass(frozen=True)
class Rules:
    """The rules of the protocol, each of which a test may break."""

    append: str = "compare-and-set"  # or "overwrite", or "rebase" onto whatever is the newest
    is_fenced: bool = True
    saves_first: bool = True
    gc_reads_leases: bool = True
    gc_notes_first: bool = True
    gc_reads_leases_again: bool = True
    reader_confirms: bool = True


class BrokenError(AssertionError):
    """A property that does not hold, and the shortest way to where it does not."""


WAVES = ("b", "c")  # "b!" is wave b by a writer that has an epoch
Step = tuple[str, World]


def explore(programs: tuple[str, ...], rules: Rules, crashes: int = 1) -> int:
    """Visit every reachable state, the nearest first; how many there are. Version 1 of the store
    has edit a. Raises BrokenError."""
    first = Commit("a", (("committed", "a"),))
    processes = tuple(Process(name, "start") for name in programs)
    start = World((first,), 0, frozenset("a"), frozenset(), frozenset(), processes, crashes)
    parents: dict[World, tuple[World, str] | None] = {start: None}
    queue = deque([start])
    while queue:
        world = queue.popleft()
        steps = list(_steps(world, rules))
        if not steps and any(p.at not in _FINAL for p in world.processes):
            raise BrokenError(_story(parents, world, "a process is stuck"))
        for label, after in steps:
            if after in parents:
                continue
            parents[after] = (world, label)
            for fault in _faults(world, after):
                raise BrokenError(_story(parents, after, fault))
            queue.append(after)
    return len(parents)


def _story(parents: dict[World, tuple[World, str] | None], world: World, fault: str) -> str:
    lines: list[str] = []
    step = parents[world]
    while step is not None:
        lines.append(step[1])
        step = parents[step[0]]
    return f"{fault}: " + "; ".join(reversed(lines))


# What must hold.


def _faults(before: World, after: World) -> Iterator[str]:
    log = after.log
    if log[: len(before.log)] != before.log:
        yield "a commit was changed or taken back"
    keys = [commit.key for commit in log]
    if len(set(keys)) < len(keys):
        yield "a wave is committed twice"
    for key, version in after.answers:
        if len(log) < version or log[version - 1].key != key:
            yield f"the commit of {key} was acknowledged and is lost"
    state = fold(log)
    if state is None:
        yield "the log contradicts itself"
        return
    epochs = [commit.epoch for commit in log if commit.epoch]
    if epochs != sorted(epochs):
        yield "a writer committed after a later epoch had"
    if (state.committed - state.dropped) - after.bundles:
        yield "an edit that may be served or restored has lost its expert"
    for process in after.processes:
        if process.held and _active(log, process.held) - after.bundles:
            yield "a reader lost an expert of the version that it has leased"


class State(NamedTuple):
    """What a log comes to."""

    committed: frozenset[str]
    active: frozenset[str]
    dropped: frozenset[str]


@cache
def fold(log: Log) -> State | None:
    """As `state.fold`; None where an event cannot follow."""
    committed: set[str] = set()
    active: set[str] = set()
    dropped: set[str] = set()
    for commit in log:
        for kind, edit in commit.events:
            is_allowed = {
                "committed": edit not in committed,
                "superseded": edit in active,
                "revoked": edit in active,
                "restored": edit in committed - active - dropped,
                "dropped": edit in committed - active - dropped,
            }[kind]
            if not is_allowed:
                return None
            if kind == "dropped":
                dropped.add(edit)
            elif kind in ("committed", "restored"):
                committed.add(edit)
                active.add(edit)
            else:
                active.remove(edit)
    return State(frozenset(committed), frozenset(active), frozenset(dropped))


def _active(log: Log, version: int) -> frozenset[str]:
    state = fold(log[:version])
    return frozenset() if state is None else state.active


def _dropped(log: Log) -> frozenset[str]:
    state = fold(log)
    return frozenset() if state is None else state.dropped


# What may happen.

_FINAL = {"done", "refused", "fenced", "serving"}


def _steps(world: World, rules: Rules) -> Iterator[Step]:
    for index, process in enumerate(world.processes):
        kind = {"gc": _gc, "reader": _reader}.get(process.program, _writer)
        for label, storage, after in kind(world, process, index, rules):
            processes = (*world.processes[:index], after, *world.processes[index + 1 :])
            name = f"{process.program}.{index} {label}"
            yield name, storage._replace(processes=processes)
        if world.crashes and process.at not in ("start", "done", "refused", "fenced"):
            died = Process(process.program, "start")
            processes = (*world.processes[:index], died, *world.processes[index + 1 :])
            yield (
                f"{process.program}.{index} dies",
                world._replace(processes=processes, crashes=world.crashes - 1),
            )
    for holder, version in world.leases:
        if world.processes[holder].at == "start":  # it died: its lease ends some time
            yield "a lease ends", world._replace(leases=world.leases - {(holder, version)})


Moves = Iterator[tuple[str, World, Process]]


def _writer(world: World, me: Process, _: int, rules: Rules) -> Moves:
    if me.at in ("start", "claim", "save"):
        return _prepare(world, me, rules)
    return _commit(world, me, rules)


def _prepare(world: World, me: Process, rules: Rules) -> Moves:
    key = _key(me)
    at = "save" if key in WAVES and rules.saves_first else "read"
    if me.at == "start" and me.program.endswith("!"):
        yield "counts epochs", world, me._replace(at="claim", epoch=world.epochs + 1)
    elif me.at == "start":
        yield "starts", world, me._replace(at=at)
    elif me.at == "claim" and me.epoch <= world.epochs:
        yield "finds its epoch taken", world, me._replace(epoch=me.epoch + 1)
    elif me.at == "claim":
        yield f"claims epoch {me.epoch}", world._replace(epochs=me.epoch), me._replace(at=at)
    else:
        saved = world._replace(bundles=world.bundles | {key})
        yield "saves its bundle", saved, me._replace(at="read" if rules.saves_first else "done")


def _commit(world: World, me: Process, rules: Rules) -> Moves:
    key, log = _key(me), world.log
    if me.at == "read":
        yield "reads", world, me._replace(at="open", seen=len(log))
    elif me.at == "open":
        done = [version for version, commit in enumerate(log, 1) if commit.key == key]
        if done:
            yield "is done", world, me._replace(at="answer", seen=done[0])
        elif len(log) != me.seen:
            yield "is late", world, me._replace(at="read")
        else:
            at = "refused" if _intent(key, log) is None else "fence"
            yield "opens", world, me._replace(at=at)
    elif me.at == "fence":
        newest = max(world.epochs, *(commit.epoch for commit in log[: me.seen]))
        is_over = rules.is_fenced and 0 < me.epoch < newest
        yield "asks for epochs", world, me._replace(at="fenced" if is_over else "append")
    elif me.at == "append":
        yield _append(world, me, Commit(key, _intent(key, log[: me.seen]) or (), me.epoch), rules)
    elif me.at == "answer":
        told = world._replace(answers=world.answers | {(key, me.seen)})
        at = "done" if rules.saves_first or key not in WAVES else "save"
        yield "is told", told, me._replace(at=at)


def _key(me: Process) -> str:
    return me.program.rstrip("!")


def _intent(key: str, log: Log) -> tuple[Event, ...] | None:
    """The events that a wave, or a rollback to version 1, comes to on top of a log; None where it
    is refused."""
    active = _active(log, len(log))
    if key in WAVES:
        return (("committed", key), *(("superseded", edit) for edit in sorted(active & {"a"})))
    target = _active(log, 1)
    if target & _dropped(log):
        return None
    events = [("revoked", edit) for edit in sorted(active - target)]
    events += [("restored", edit) for edit in sorted(target - active)]
    return tuple(events) or None


def _append(world: World, me: Process, commit: Commit, rules: Rules) -> tuple[str, World, Process]:
    log = world.log
    if rules.append == "compare-and-set" and len(log) != me.seen:
        return "is beaten", world, me._replace(at="read")
    base = log[: me.seen] if rules.append == "overwrite" else log
    after = (*base, commit)
    name = f"commits version {len(after)}"
    return name, world._replace(log=after), me._replace(at="answer", seen=len(after))


def _gc(world: World, me: Process, _: int, rules: Rules) -> Moves:
    log = world.log
    if me.at == "start":
        yield "reads the version", world, me._replace(at="marks", seen=len(log))
    elif me.at == "marks":
        yield "reads leases", world, me._replace(at="list", marks=_leased(world, rules))
    elif me.at == "list":
        state = fold(log)
        assert state is not None
        needed = _referenced(log, {me.seen, len(log)} | me.marks)
        names = tuple(sorted((state.committed & world.bundles) - needed))  # those dropped: orphans
        drops = tuple(name for name in names if name not in state.dropped)
        at = "delete" if not rules.gc_notes_first else "open" if drops else "again"
        yield "lists", world, me._replace(at=at if names else "done", drops=drops, names=names)
    elif me.at == "open":
        is_refused = set(me.drops) & (_active(log, len(log)) | _dropped(log))
        at = "refused" if is_refused else "append"
        yield "opens", world, me._replace(at=at, seen=len(log))
    elif me.at == "append":
        if len(log) != me.seen:
            yield "is beaten", world, me._replace(at="open")
            return
        number = sum(commit.key.startswith("gc") for commit in log)
        noted = Commit(f"gc{number}", tuple(("dropped", edit) for edit in me.drops))
        at = "again" if rules.gc_notes_first else "done"
        yield "notes the loss", world._replace(log=(*log, noted)), me._replace(at=at)
    elif me.at == "again":
        marks = _leased(world, rules) if rules.gc_reads_leases_again else me.marks
        needed = _referenced(log, {len(log)} | marks)
        names = tuple(name for name in me.names if name not in needed)
        at = "delete" if names else "done"
        yield "reads leases again", world, me._replace(at=at, names=names)
    elif me.at == "delete":
        name, *rest = me.names
        at = "delete" if rest else "done" if rules.gc_notes_first else "open"
        names = tuple(rest)
        gone = world._replace(bundles=world.bundles - {name})
        yield f"deletes bundle {name}", gone, me._replace(at=at, names=names)


def _leased(world: World, rules: Rules) -> frozenset[int]:
    return frozenset(v for _, v in world.leases) if rules.gc_reads_leases else frozenset()


def _referenced(log: Log, versions: set[int] | frozenset[int]) -> set[str]:
    return {edit for version in versions for edit in _active(log, version)}


def _reader(world: World, me: Process, index: int, rules: Rules) -> Moves:
    log = world.log
    if me.at in ("start", "serving"):
        for version in range(1, len(log) + 1):  # the newest, or one that a request asks for
            if version > me.held:
                yield f"looks at version {version}", world, me._replace(at="lease", seen=version)
    elif me.at == "lease":
        leases = world.leases | {(index, me.seen)}
        at = "confirm" if rules.reader_confirms else "release"
        yield f"leases version {me.seen}", world._replace(leases=leases), me._replace(at=at)
    elif me.at == "confirm":
        is_lost = bool(_active(log, me.seen) & _dropped(log))
        yield "reads the ledger", world, me._replace(at="let go" if is_lost else "release")
    elif me.at == "let go":
        leases = world.leases - {(index, me.seen)}
        at = "serving" if me.held else "refused"
        yield "lets go", world._replace(leases=leases), me._replace(at=at)
    elif me.at == "release":
        serving = me._replace(at="serving", held=me.seen)
        yield "serves", world._replace(leases=frozenset({(index, me.seen)})), serving


def find_fault(programs: tuple[str, ...], rules: Rules, crashes: int = 1) -> str:
    """The counterexample; empty where every property holds."""
    try:
        explore(programs, rules, crashes)
    except BrokenError as fault:
        return str(fault)
    return ""
