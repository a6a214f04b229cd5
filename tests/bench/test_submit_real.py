"""A small version of the job on a real head. Values are not judged."""

from pathlib import Path

import pytest

from bench.small_run import least, run_bench

pytestmark = [pytest.mark.e2e, pytest.mark.cluster]


def test_a_submitted_job_prints_one_line(tiny_folder: Path) -> None:
    [line] = run_bench("submit_real.py", "--base", tiny_folder, "--edits", 2)
    assert (line["bench"], line["edits"], line["workers"]) == ("submit_real", 2, 2)
    assert least(line, "job_seconds", "second_submit_seconds", "driver_peak_mb") > 0
    assert line["seconds"] > line["job_seconds"]
    assert 0 <= line["reliability"] <= 1
