"""Progress where there is no terminal: plain lines, not too many."""

import pytest

from scen.cli.output import LineProgress, step_progress


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What was said, without the dots."""
    return [line.removeprefix("· ") for line in capsys.readouterr().err.splitlines()]


def test_the_end_of_a_step_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    progress = LineProgress(every_s=3600)
    progress.start_wave("wave 0 of news: 5 edits")
    for _ in range(5):
        progress("train", 1, 5)
    progress("evaluate", 2, 4)
    assert lines(capsys) == ["wave 0 of news: 5 edits", "train 5/5"]


def test_what_is_due_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    progress = LineProgress(every_s=0)
    progress("train", 2, 5)
    progress("train", 2, 5)
    assert lines(capsys) == ["train 2/5", "train 4/5"]


def test_each_wave_counts_from_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    progress = LineProgress(every_s=3600)
    for name in ("one", "two"):
        progress.start_wave(name)
        progress("train", 3, 3)
    assert lines(capsys) == ["one", "train 3/3", "two", "train 3/3"]


def test_a_log_is_given_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with step_progress() as progress:
        progress("train", 1, 1)
    assert lines(capsys) == ["train 1/1"]
