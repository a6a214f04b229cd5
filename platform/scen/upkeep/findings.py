"""What is wrong with a store, or could be tidied, and what to do about it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One file or commit that is not as it should be. `kind` is damaged, missing, contradiction or
    orphan; orphans (files that nothing needs) are no damage."""

    kind: str
    where: str
    what: str
    fix: str

    @property
    def is_damage(self) -> bool:
        """True where something is lost or wrong."""
        return self.kind != "orphan"


BACKUP = "restore the file from a backup"
