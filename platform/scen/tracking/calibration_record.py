"""What a tracker is told about a calibration."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class CalibrationRecord:
    """A calibration of `base_name`.

    `curve` are points (false activation of hard negatives, rephrases found), shares; `bound` is the
    false activation that was asked for. `top1_by_depth` maps a kind of key (span, last) to its
    share of right answers by layer; it is empty where places were not searched for, as `places`,
    sets of keys with the share they find. `trials` are what experts were tried; both are rows of
    tables. `files` are kept as artifacts.
    """

    base_name: str
    params: Mapping[str, str | int | float | bool]
    metrics: Mapping[str, float]
    curve: Sequence[tuple[float, float]]
    bound: float | None
    top1_by_depth: Mapping[str, Mapping[int, float]]
    places: Sequence[Mapping[str, object]]
    trials: Sequence[Mapping[str, object]]
    files: Sequence[Path]
