"""Latency counts prompts, not batches."""

import pytest

from scen.evaluation.run_eval import BatchTime, latency_metrics


def test_every_prompt_waits_for_its_batch() -> None:
    found = latency_metrics([BatchTime(18, 9.0, 1.0), BatchTime(2, 1.0, 0.25)])
    assert found == {
        "answer_seconds_median": 1.0,
        "answer_seconds_p95": 1.0,
        "prompts_per_batch": 10.0,
        "seconds_per_probe": 0.5,
    }


@pytest.mark.parametrize(("slow", "p95"), [(5, 1.0), (6, 7.0)])
def test_p95_is_passed_by_five_in_a_hundred_at_most(slow: int, p95: float) -> None:
    found = latency_metrics([BatchTime(slow, 8.0, 7.0), BatchTime(100 - slow, 3.0, 1.0)])
    assert found["answer_seconds_p95"] == p95


def test_nothing_was_timed() -> None:
    assert latency_metrics([]) == {}
