"""Remarks: what a person may want to look at, by the edit that it is about."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Remark:
    """A sentence about an edit."""

    edit_id: str
    text: str

    def __str__(self) -> str:
        return self.text


def gone_remark(edit_id: str, how: str) -> Remark:
    """An edit is handed in again that was taken away, `how` says in which way."""
    again = "to have it again, give it another id or roll back"
    return Remark(edit_id, f"edit {edit_id} is {how} and stays so; {again}")


def reverse_remark(edit_id: str, other_id: str) -> Remark:
    """The subject of each of two edits is the target of the other."""
    return Remark(edit_id, f"edit {edit_id} is the reverse of edit {other_id}")


def scheduled_remark(edit_id: str, start: datetime) -> Remark:
    """An edit is not valid yet."""
    when = "the first `scen expire` after that activates it"
    return Remark(edit_id, f"edit {edit_id} is valid from {start.isoformat()} on: {when}")


def collision_remark(edit_id: str, other_id: str) -> Remark:
    """The router takes the prompt of an edit to another one as well."""
    remedy = "a profile calibrated with each as a near miss of the other may tell them apart"
    return Remark(edit_id, f"the prompt of edit {edit_id} also reaches edit {other_id}: {remedy}")
