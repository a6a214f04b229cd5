"""Admission against the ledger: what of a wave is new, known already, or in contradiction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from scen.config import OnConflict
from scen.data import Rejection
from scen.records import Edit, edit_to_dict, normalise
from scen.registry.entry import LedgerEntry, edit_keys, in_utc, prompt_key, target_key
from scen.registry.snapshot import Snapshot
from scen.registry.state import State
from scen.text import name_hidden
from scen.waves.remarks import Remark, gone_remark, reverse_remark


@dataclass(frozen=True, slots=True)
class Clash:
    """An edit that is not added to what is committed, and why. `is_contradiction` where another
    edit says otherwise; else it is a repetition, or its time is over."""

    edit: Edit
    field: str
    reason: str
    is_contradiction: bool = False

    def as_rejection(self, row: int) -> Rejection:
        """The same as a row of a quarantine; `row` is the number that the edit came under."""
        raw = str(edit_to_dict(self.edit))
        return Rejection(row, self.edit.id, self.field, self.reason, raw)


@dataclass(frozen=True)
class Admission:
    """`fresh` edits are new; `known` ones were committed before, letter for letter, whatever became
    of them since. `supersedes` maps ids of active edits to the fresh ones that take their place.
    `remarked` is what a person may want to look at."""

    fresh: tuple[Edit, ...]
    known: tuple[Edit, ...]
    rejections: tuple[Clash, ...]
    supersedes: Mapping[str, str] = field(default_factory=dict)
    remarked: tuple[Remark, ...] = ()

    @property
    def remarks(self) -> tuple[str, ...]:
        """The remarks in words."""
        return tuple(remark.text for remark in self.remarked)

    @property
    def contradictions(self) -> list[Clash]:
        """The rejections that are for what another edit says."""
        return [clash for clash in self.rejections if clash.is_contradiction]


def admit(
    edits: Sequence[Edit],
    snapshot: Snapshot,
    on_conflict: OnConflict = "quarantine",
    now: datetime | None = None,
) -> Admission:
    """Sort edits by what the ledger, and the others of the wave, say of them. Nothing is dropped
    silently. Where two contradict each other the older one stays, or with `supersede` the newer:
    the later of a wave, and the wave's before the ledger's."""
    sorter = _Sorter(snapshot.state, on_conflict == "supersede", now or datetime.now(UTC))
    for edit in reversed(edits) if sorter.is_newer_kept else edits:
        sorter.add(edit)
    step = -1 if sorter.is_newer_kept else 1
    return Admission(
        tuple(sorter.fresh[::step]),
        tuple(sorter.known[::step]),
        tuple(sorter.clashes[::step]),
        sorter.supersedes,
        tuple(sorter.remarked[::step]),
    )


class _Sorter:
    """The heaps of an admission, filled edit by edit; of a wave's own the first one wins."""

    def __init__(self, state: State, is_newer_kept: bool, now: datetime) -> None:
        self.is_newer_kept = is_newer_kept
        self.fresh: list[Edit] = []
        self.known: list[Edit] = []
        self.clashes: list[Clash] = []
        self.supersedes: dict[str, str] = {}
        self.remarked: list[Remark] = []
        self._state, self._now = state, now
        self._taken: dict[str, Edit] = {}  # edits of the wave by their keys

    def add(self, edit: Edit) -> None:
        """Put an edit on its heap."""
        entry = self._state.entries.get(edit.id)
        if entry is not None and entry.digest == edit.digest:
            self.known.append(edit)
            self._remark_gone(edit.id)
            if self.is_newer_kept:  # what the wave said before it is outdated, when it is run again
                self._taken |= dict.fromkeys(edit_keys(edit), edit)
            return
        clash = self._check_alone(edit) or self._meet_wave(edit) or self._meet_ledger(edit)
        if clash is not None:
            self.clashes.append(clash)
            return
        self.fresh.append(edit)
        self._taken |= dict.fromkeys(edit_keys(edit), edit)
        self.remarked += [reverse_remark(edit.id, other) for other in self._reverses(edit)]

    def _remark_gone(self, edit_id: str) -> None:
        gone = self._state.gone.get(edit_id)
        if gone is not None and gone.status != "superseded":
            self.remarked.append(gone_remark(edit_id, str(gone)))

    def _check_alone(self, edit: Edit) -> Clash | None:
        if edit.id in self._state.entries:
            reason = "this id is committed with other content: give the new edit its own id"
            return Clash(edit, "id", reason, is_contradiction=True)
        until = in_utc(edit.valid_until)
        if until is not None and until <= self._now:
            return Clash(edit, "valid_until", "its time is over: set it later or drop the edit")
        return None

    def _meet_wave(self, edit: Edit) -> Clash | None:
        for key in edit_keys(edit):
            other = self._taken.get(key)
            if other is None:
                continue
            if target_key(other) != target_key(edit):
                word = "takes its place" if self.is_newer_kept else "drop one of the two"
                reason = f"edit {other.id} of this wave says {other.target!r} of it: {word}"
                return Clash(edit, "target", reason, is_contradiction=not self.is_newer_kept)
            if key == prompt_key(edit):
                reason = f"edit {other.id} of this wave has the same prompt and target: drop one"
                return Clash(edit, "prompt", reason)
        return None

    def _meet_ledger(self, edit: Edit) -> Clash | None:
        against: list[LedgerEntry] = []
        for entry in self._state.active_about(edit_keys(edit)):
            is_asked_so = entry.prompt_key == prompt_key(edit)
            if not self._is_same(entry, edit):
                against.append(entry)
            elif is_asked_so:
                return Clash(edit, "prompt", _same(entry))
        if against and not self.is_newer_kept:
            return _contradiction(edit, against[0])
        for entry in against:
            self.supersedes.setdefault(entry.edit_id, edit.id)
        return None

    def _is_same(self, entry: LedgerEntry, edit: Edit) -> bool:
        """True for an equal target; where the newer is kept, it may change the spelling."""
        is_same = entry.target_key == target_key(edit)
        return is_same and (not self.is_newer_kept or entry.edit.target == edit.target)

    def _reverses(self, edit: Edit) -> list[str]:
        """Active edits whose subject is this one's target, and the other way round."""
        subject = normalise(edit.subject or "")
        return list(self._state.reverses.get((target_key(edit), subject), ())) if subject else []


def _same(entry: LedgerEntry) -> str:
    return f"edit {entry.edit_id} is committed with the same prompt and target: drop this one"


def _contradiction(edit: Edit, entry: LedgerEntry) -> Clash:
    is_asked_so = entry.prompt_key == prompt_key(edit)
    what = "prompt" if is_asked_so else "subject and relation"
    reason = (
        f"edit {entry.edit_id} is committed with the same {what}{_but_for(edit, entry.edit)} and "
        "the target "
        f"{entry.edit.target!r}: drop one of the two, or let the newer take its place "
        "(--on-conflict supersede)"
    )
    return Clash(edit, "prompt" if is_asked_so else "target", reason, is_contradiction=True)


def _but_for(edit: Edit, other: Edit) -> str:
    """The hidden characters that two edits are compared without, in words."""
    names = name_hidden(f"{edit.prompt}{edit.subject or ''}{other.prompt}{other.subject or ''}")
    return f" but for {names}" if names else ""
