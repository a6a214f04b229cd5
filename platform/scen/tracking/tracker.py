"""The interface between waves and whatever keeps their history. Loads nothing heavy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class WaveRecord:
    """One committed wave of a stream, as a tracker receives it.

    `wave_key` identifies the wave: it is tracked once, however often it is submitted.
    `loss_curves` holds one curve per trained edit, step by step; they differ in length because
    training stops early. `per_edit` is a table, one row per probe of the edits (see `summaries`).
    `threshold` is the score above which an edit of the store answers. `system` holds samples of the
    process that ran the wave, in order: `at` (seconds since 1970) and figures by name. Records of
    earlier releases have neither.
    """

    stream: str
    wave: int
    wave_key: str
    ledger_version: int
    base_name: str
    params: Mapping[str, str | int | float | bool]
    metrics: Mapping[str, float]
    loss_curves: Sequence[Sequence[float]]
    per_edit: Sequence[Mapping[str, object]]
    dataset_digest: str
    num_edits: int
    threshold: float | None = None
    system: Sequence[Mapping[str, float]] = field(default_factory=list)


class Tracker(Protocol):
    """Keeps the history of waves."""

    def track_wave(self, record: WaveRecord) -> str | None:
        """Track a committed wave once; returns the id of its run, if any. Raises ScenError."""
        ...


class NullTracker:
    """Keeps nothing."""

    def track_wave(self, record: WaveRecord) -> str | None:
        """Does nothing."""
        return None
