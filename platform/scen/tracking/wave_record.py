"""What a tracker is told about a committed wave."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class WaveRecord:
    """One committed wave of a stream.

    `wave_key` names the wave for ever: a wave is tracked once, however often it is told.
    `loss_curves` holds one curve per trained edit, step by step; they differ in length because
    training stops early. `per_edit` is a table, one row per probe of the edits (see `probe_rows`).
    `threshold` is the score above which an edit of the store speaks. `system` are samples of the
    process that ran the wave, in order: `at` (seconds since 1970) and figures by name. Records of
    earlier versions have neither.
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
