"""What a tracker is told about a committed wave."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WaveRecord:
    """One committed wave of a stream.

    `wave_key` names the wave for ever: a wave is tracked once, however often it is told.
    `loss_curves` holds one curve per trained edit, step by step; they differ in length because
    training stops early. `per_edit` is a table, one row per edit.
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
