"""Admission: which edits of a wave are new, already committed, or in conflict with the ledger.

Remarks are short notes for the user about one edit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from scen.config import OnConflict
from scen.data import Rejection
from scen.ledger.actions import starts_after
from scen.ledger.events import LedgerEntry, edit_keys, in_utc, prompt_key, target_key
from scen.ledger.state import Snapshot, State
from scen.records import Edit, edit_to_dict
from scen.text import name_hidden, normalise


@dataclass(frozen=True, slots=True)
class Remark:
    """A sentence about an edit, for the user."""

    edit_id: str
    text: str

    def __str__(self) -> str:
        return self.text


def gone_remark(edit_id: str, status: str) -> Remark:
    """A resubmitted edit is no longer active; `status` says why (revoked, expired ...)."""
    remedy = "to activate it again, submit it under another id or roll back"
    return Remark(edit_id, f"edit {edit_id} is {status} and stays so; {remedy}")


def reverse_remark(edit_id: str, other_id: str) -> Remark:
    """Two edits have each other's target as their subject."""
    return Remark(edit_id, f"edit {edit_id} is the reverse of edit {other_id}")


def scheduled_remark(edit_id: str, start: datetime) -> Remark:
    """An edit is not valid yet."""
    remedy = "the first `scen expire` after that activates it"
    return Remark(edit_id, f"edit {edit_id} is valid from {start.isoformat()} on: {remedy}")


def collision_remark(edit_id: str, other_id: str) -> Remark:
    """The router also matches the prompt of an edit to another edit."""
    remedy = "a profile calibrated with each as a near miss of the other may tell them apart"
    return Remark(edit_id, f"the prompt of edit {edit_id} also reaches edit {other_id}: {remedy}")


@dataclass(frozen=True, slots=True)
class Clash:
    """An edit that is not admitted, and why. `is_contradiction`: another edit has another target;
    otherwise it is a duplicate, or past its `valid_until`."""

    edit: Edit
    field: str
    reason: str
    is_contradiction: bool = False

    def as_rejection(self, row: int) -> Rejection:
        """As a quarantine row; `row` is the row number of the edit in its source."""
        raw = str(edit_to_dict(self.edit))
        return Rejection(row, self.edit.id, self.field, self.reason, raw)


@dataclass(frozen=True)
class Admission:
    """The result of `admit`.

    `fresh` edits are new; `known` ones were committed before with identical content, active or not.
    `supersedes` maps ids of committed edits to the fresh ones that replace them at once, `succeeds`
    ids of active edits to the scheduled ones that replace them when they start. `later` edits are
    new, too, but succeed others of the same wave, so they need a separate wave. `remarked` are
    remarks for the user; `as_of` is the moment at which validity was checked."""

    fresh: tuple[Edit, ...]
    known: tuple[Edit, ...]
    rejections: tuple[Clash, ...]
    supersedes: Mapping[str, str] = field(default_factory=dict)
    remarked: tuple[Remark, ...] = ()
    succeeds: Mapping[str, str] = field(default_factory=dict)
    later: tuple[Edit, ...] = ()
    as_of: datetime | None = None

    @property
    def replaces(self) -> dict[str, str]:
        """Committed edits that fresh ones replace, now or later; not evaluated with the wave."""
        return {**self.succeeds, **self.supersedes}

    @property
    def remarks(self) -> tuple[str, ...]:
        """The texts of the remarks."""
        return tuple(remark.text for remark in self.remarked)

    @property
    def contradictions(self) -> list[Clash]:
        """The rejections due to a contradiction with another edit."""
        return [clash for clash in self.rejections if clash.is_contradiction]


def admit(
    edits: Sequence[Edit],
    snapshot: Snapshot,
    on_conflict: OnConflict = "quarantine",
    now: datetime | None = None,
) -> Admission:
    """Classify the edits of a wave against the ledger and each other; every edit ends up in one
    field of the result. Of two contradicting edits the older one is kept, or with `supersede` the
    newer one: the later of a wave, and the wave's over the ledger's. Edits that start at different
    times do not contradict each other: the later one succeeds the earlier when it starts."""
    moment = now or datetime.now(UTC)
    sorter = _Sorter(snapshot.state, on_conflict == "supersede", moment)
    for edit in reversed(edits) if sorter.is_newer_kept else edits:
        sorter.add(edit)
    step = -1 if sorter.is_newer_kept else 1
    later = sorter.successors()
    return Admission(
        tuple(edit for edit in sorter.fresh[::step] if edit.id not in later),
        tuple(sorter.known[::step]),
        tuple(sorter.clashes[::step]),
        {old: new for old, new in sorter.supersedes.items() if new not in later},
        tuple(remark for remark in sorter.remarked[::step] if remark.edit_id not in later),
        {old: new for old, new in sorter.succeeds.items() if new not in later},
        tuple(edit for edit in sorter.fresh[::step] if edit.id in later),
        moment,
    )


class _Sorter:
    """Accumulates an admission edit by edit; of contradicting edits of a wave the first wins."""

    def __init__(self, state: State, is_newer_kept: bool, now: datetime) -> None:
        self.is_newer_kept = is_newer_kept
        self.fresh: list[Edit] = []
        self.known: list[Edit] = []
        self.clashes: list[Clash] = []
        self.supersedes: dict[str, str] = {}
        self.succeeds: dict[str, str] = {}
        self.remarked: list[Remark] = []
        self._state, self._now = state, now
        self._by_key: dict[str, list[Edit]] = {}  # edits of the wave by their keys

    def add(self, edit: Edit) -> None:
        """Classify an edit."""
        entry = self._state.entries.get(edit.id)
        if entry is not None and entry.digest == edit.digest:
            self.known.append(edit)
            self._remark_gone(edit.id)
            if self.is_newer_kept:  # on a rerun, earlier edits of the wave are outdated
                self._add_keys(edit)
            return
        clash = self._check_alone(edit) or self._check_wave(edit) or self._check_ledger(edit)
        if clash is not None:
            self.clashes.append(clash)
            return
        self.fresh.append(edit)
        self._add_keys(edit)
        self.remarked += [reverse_remark(edit.id, other) for other in self._reverses(edit)]
        if edit.valid_from is not None and starts_after(edit, self._now):
            self.remarked.append(scheduled_remark(edit.id, edit.valid_from))

    def successors(self) -> set[str]:
        """The fresh edits that start later than another fresh one with one of their keys."""
        fresh = {edit.id for edit in self.fresh}
        return {
            edit.id
            for edit in self.fresh
            if starts_after(edit, self._now)
            for key in edit_keys(edit)
            for other in self._by_key[key]
            if other.id in fresh and self._start(other) < self._start(edit)
        }

    def _add_keys(self, edit: Edit) -> None:
        for key in edit_keys(edit):
            self._by_key.setdefault(key, []).append(edit)

    def _start(self, edit: Edit) -> datetime:
        """When an edit becomes valid; now if it is valid already."""
        return max(in_utc(edit.valid_from) or self._now, self._now)

    def _covers(self, other: Edit, edit: Edit) -> bool:
        """True if `other` is valid throughout the validity of `edit`."""
        end, other_end = in_utc(edit.valid_until), in_utc(other.valid_until)
        is_longer = other_end is None or (end is not None and end <= other_end)
        return self._start(other) <= self._start(edit) and is_longer

    def _remark_gone(self, edit_id: str) -> None:
        gone = self._state.gone.get(edit_id)
        if gone is not None and gone.status != "superseded" and not gone.is_scheduled:
            self.remarked.append(gone_remark(edit_id, str(gone)))

    def _check_alone(self, edit: Edit) -> Clash | None:
        if edit.id in self._state.entries:
            reason = "this id is committed with other content: give the new edit its own id"
            return Clash(edit, "id", reason, is_contradiction=True)
        until = in_utc(edit.valid_until)
        if until is not None and until <= self._now:
            return Clash(edit, "valid_until", "is in the past: set it later or drop the edit")
        return None

    def _check_wave(self, edit: Edit) -> Clash | None:
        for key in edit_keys(edit):
            for other in self._by_key.get(key, ()):
                is_same = target_key(other) == target_key(edit)
                starts_together = self._start(other) == self._start(edit)
                if is_same and key == prompt_key(edit):
                    if starts_together or self._covers(other, edit):
                        reason = f"edit {other.id} of this wave has the same prompt and target"
                        return Clash(edit, "prompt", f"{reason}: drop one")
                elif not is_same and starts_together:
                    remedy = "it is kept" if self.is_newer_kept else "drop one of the two"
                    reason = f"edit {other.id} of this wave says {other.target!r} of it: {remedy}"
                    return Clash(edit, "target", reason, is_contradiction=not self.is_newer_kept)
        return None

    def _check_ledger(self, edit: Edit) -> Clash | None:
        contradicted: list[LedgerEntry] = []
        keys, state = edit_keys(edit), self._state
        active = state.active_about(keys)
        for entry in [*active, *state.scheduled_about(keys)]:
            is_active = state.is_active(entry.edit_id)
            start = self._now if is_active else self._start(entry.edit)
            starts_together = start == self._start(edit)
            is_same_prompt = entry.prompt_key == prompt_key(edit)
            if self._is_same(entry, edit):
                if is_same_prompt and (starts_together or self._covers(entry.edit, edit)):
                    return Clash(edit, "prompt", _same(entry))
            elif starts_together:
                contradicted.append(entry)
        if contradicted and not self.is_newer_kept:
            return _contradiction(edit, contradicted[0])
        for entry in contradicted:
            self.supersedes.setdefault(entry.edit_id, edit.id)
        if starts_after(edit, self._now):
            for entry in active:
                if entry.prompt_key == prompt_key(edit) or not self._is_same(entry, edit):
                    self.succeeds.setdefault(entry.edit_id, edit.id)
        return None

    def _is_same(self, entry: LedgerEntry, edit: Edit) -> bool:
        """True for an equal target; if the newer edit is kept, also its spelling must be equal."""
        is_same = entry.target_key == target_key(edit)
        return is_same and (not self.is_newer_kept or entry.edit.target == edit.target)

    def _reverses(self, edit: Edit) -> list[str]:
        """Active edits whose subject is the target of this one, and vice versa."""
        subject = normalise(edit.subject or "")
        return list(self._state.reverses.get((target_key(edit), subject), ())) if subject else []


def _same(entry: LedgerEntry) -> str:
    return f"edit {entry.edit_id} is committed with the same prompt and target: drop this one"


def _contradiction(edit: Edit, entry: LedgerEntry) -> Clash:
    is_same_prompt = entry.prompt_key == prompt_key(edit)
    what = "prompt" if is_same_prompt else "subject and relation"
    reason = (
        f"edit {entry.edit_id} is committed with the same {what}{_but_for(edit, entry.edit)} and "
        "the target "
        f"{entry.edit.target!r}: drop one of the two, or let the newer replace it "
        "(--on-conflict supersede)"
    )
    return Clash(edit, "prompt" if is_same_prompt else "target", reason, is_contradiction=True)


def _but_for(edit: Edit, other: Edit) -> str:
    """The hidden characters ignored when two edits are compared, for a message."""
    names = name_hidden(f"{edit.prompt}{edit.subject or ''}{other.prompt}{other.subject or ''}")
    return f" but for {names}" if names else ""
