"""Committed edits and the events of their life cycle."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import ClassVar

from scen.ledger.table import EditTexts
from scen.records import Edit
from scen.text import normalise


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One edit of the ledger. `version` is the one that committed it; edits are compared by their
    `prompt_key`, `fact_key` and `target_key`."""

    texts: EditTexts = field(compare=False, repr=False)
    edit_id: str
    digest: str
    prompt_key: str
    fact_key: str | None
    target_key: str
    valid_until: datetime | None
    stream: str
    wave: int
    wave_key: str
    bundle: str
    row: int
    version: int
    committed_at: datetime

    @property
    def edit(self) -> Edit:
        """The full edit, read from storage together with all others on first use."""
        return self.texts.get(self.edit_id)

    @property
    def valid_from(self) -> datetime | None:
        """When the edit becomes active (UTC); None for one without a start."""
        return in_utc(self.edit.valid_from)

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of its prompt and fact: edits with the same prompt or fact share a key."""
        return _keys(self.prompt_key, self.fact_key)

    @property
    def subject_key(self) -> str | None:
        """Equal for edits with the same subject; None if the edit has no subject or relation."""
        return None if self.fact_key is None else self.fact_key.partition("\n")[0]


def prompt_key(edit: Edit) -> str:
    """Equal for edits with the same prompt."""
    return normalise(edit.prompt)


def target_key(edit: Edit) -> str:
    """Equal for edits with the same target."""
    return normalise(edit.target) or edit.target


def fact_key(edit: Edit) -> str | None:
    """Equal for edits with the same subject and relation; None if the edit lacks one of them."""
    relation = edit.relation if edit.subject else None
    if relation is None:
        return None
    return f"{normalise(edit.subject or '')}\n{normalise(relation)}"


def edit_keys(edit: Edit) -> tuple[str, ...]:
    """As `LedgerEntry.keys`, for an edit that is not committed."""
    return _keys(prompt_key(edit), fact_key(edit))


def in_utc(moment: datetime | None) -> datetime | None:
    """A moment with its time zone; UTC if it has none."""
    if moment is None or moment.tzinfo is not None:
        return moment
    return moment.replace(tzinfo=UTC)


def _keys(prompt: str, fact: str | None) -> tuple[str, ...]:
    # No prompt key is a fact key: those have a line break in them.
    return (prompt,) if fact is None else (prompt, fact)


@dataclass(frozen=True, slots=True)
class Committed:
    """The edit is in the ledger and active from this version on."""

    kind: ClassVar[str] = "committed"
    entry: LedgerEntry
    version: int

    @property
    def edit_id(self) -> str:
        """The id of the edit."""
        return self.entry.edit_id


@dataclass(frozen=True, slots=True)
class Scheduled:
    """The edit is not active until its `valid_from`. Follows `Committed` in the same commit, or
    comes from a rollback to a version at which the edit was scheduled."""

    kind: ClassVar[str] = "scheduled"
    edit_id: str
    version: int


@dataclass(frozen=True, slots=True)
class Activated:
    """The `valid_from` of a scheduled edit has passed: it is active from this version on."""

    kind: ClassVar[str] = "activated"
    edit_id: str
    version: int


@dataclass(frozen=True, slots=True)
class Superseded:
    """The newer edit `by` replaces the edit."""

    kind: ClassVar[str] = "superseded"
    edit_id: str
    version: int
    by: str


@dataclass(frozen=True, slots=True)
class Revoked:
    """The edit was deactivated by a user or a rollback."""

    kind: ClassVar[str] = "revoked"
    edit_id: str
    version: int


@dataclass(frozen=True, slots=True)
class Expired:
    """The edit is past its `valid_until`."""

    kind: ClassVar[str] = "expired"
    edit_id: str
    version: int


@dataclass(frozen=True, slots=True)
class Restored:
    """A rollback has made an edit active again."""

    kind: ClassVar[str] = "restored"
    edit_id: str
    version: int


@dataclass(frozen=True, slots=True)
class Dropped:
    """The expert of an inactive edit is deleted: the edit can never be restored."""

    kind: ClassVar[str] = "dropped"
    edit_id: str
    version: int


@dataclass(frozen=True, slots=True)
class Recalibrated:
    """The store routes with another router from this version on: the bundle `router` (sha256 in
    hex; None: the router that the store was created with)."""

    kind: ClassVar[str] = "recalibrated"
    edit_id: ClassVar[str] = ""  # it changes no edit
    version: int
    router: str | None


EditEvent = Committed | Scheduled | Activated | Superseded | Revoked | Expired | Restored | Dropped
Event = EditEvent | Recalibrated
