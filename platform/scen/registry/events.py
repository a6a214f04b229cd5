"""What can happen to an edit. The ledger is a list of these; see `state` for what they come to."""

from dataclasses import dataclass
from typing import ClassVar

from scen.registry.entry import LedgerEntry


@dataclass(frozen=True, slots=True)
class Committed:
    """An edit is there and active from now on."""

    kind: ClassVar[str] = "committed"
    entry: LedgerEntry
    version: int

    @property
    def edit_id(self) -> str:
        """The id of the edit."""
        return self.entry.edit_id


@dataclass(frozen=True, slots=True)
class Superseded:
    """A newer edit of the same fact, `by`, has taken the edit's place."""

    kind: ClassVar[str] = "superseded"
    edit_id: str
    version: int
    by: str


@dataclass(frozen=True, slots=True)
class Revoked:
    """Somebody has taken the edit away."""

    kind: ClassVar[str] = "revoked"
    edit_id: str
    version: int


@dataclass(frozen=True, slots=True)
class Expired:
    """The time for which the edit was valid is over."""

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
    """The expert of an edit that was taken away is deleted: it can never be restored."""

    kind: ClassVar[str] = "dropped"
    edit_id: str
    version: int


Event = Committed | Superseded | Revoked | Expired | Restored | Dropped
KINDS = tuple(kind.kind for kind in (Committed, Superseded, Revoked, Expired, Restored, Dropped))
