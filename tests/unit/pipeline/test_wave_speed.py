"""How long edits take is learned from the newest waves of a store."""

from pathlib import Path
from typing import Any

import pytest

from scen.config import load_config
from scen.fs import Storage
from scen.pipeline.runtime import WaveSpeed, count_probes, measure_speed
from scen.records import Edit, Rephrase


def measured(storage: Storage, key: str, seconds: float, probe: float | None) -> None:
    """A wave of four edits that took so long to train, and per prompt to measure."""
    latency = {} if probe is None else {"seconds_per_probe": probe}
    wave: dict[str, Any] = {"seconds": seconds, "report": {"n_edits": 4}, "latency": latency}
    storage.put_json(f"waves/{key}/evaluated.json", wave)


def test_the_median_of_the_newest_waves_counts(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    for number, (seconds, probe) in enumerate([(8.0, 0.5), (400.0, 90.0), (4.0, 0.25)]):
        measured(storage, f"w{number}", seconds, probe)
    assert measure_speed(storage, "any") == WaveSpeed(2.0, 0.5)
    for number in range(20):
        measured(storage, f"v{number}", 40.0, 1.0)
    assert measure_speed(storage, "any") == WaveSpeed(10.0, 1.0)


def test_waves_that_did_not_keep_the_time_of_measuring_leave_a_guess(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    measured(storage, "w", 8.0, None)
    found = measure_speed(storage, "any")
    assert found is not None
    assert (found.per_edit, found.is_rough) == (2.0, True)


@pytest.mark.parametrize(
    ("name", "is_known"), [(None, True), ("smollm2-135m-instruct", True), ("other/base", False)]
)
def test_without_waves_there_is_a_guess_for_the_embedded_base(
    tmp_path: Path, name: str | None, is_known: bool
) -> None:
    found = measure_speed(Storage(str(tmp_path)), name)
    assert (found is not None and found.is_rough) is is_known


def test_all_prompts_of_a_wave_are_counted() -> None:
    edit = Edit("a", "q", "t", rephrases=(Rephrase("r"),), near_misses=("n",))
    config = load_config(fixed={"evaluation": {"retention_limit": 5}})
    assert count_probes([edit, Edit("b", "q", "t")], 3, 100, config) == 4 + 3 + 100
    assert count_probes([edit], 9, 0, config) == 3 + 5
