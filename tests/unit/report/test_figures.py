"""Figures of a store: what is drawn is what was read."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.lines import Line2D

from scen.fs import Storage
from scen.pipeline.wave_facts import WaveFacts, frequent_sources
from scen.report.figures import (
    curves_figure,
    evaluation_pictures,
    life_figure,
    picture,
    quality_curves,
)
from scen.report.store import StoreFacts


def points(line: Line2D) -> tuple[list[float], list[float]]:
    """What a line goes through."""
    x, y = (np.asarray(values, dtype=float).tolist() for values in line.get_data())
    return x, y


def with_source(wave: WaveFacts, source: str) -> WaveFacts:
    """The wave, as if all its rephrases came from a source."""
    assert wave.report is not None
    counts = wave.report.counts | {f"generality_{source}": 7}
    return replace(wave, report=replace(wave.report, generality={source: 0.25}, counts=counts))


def test_active_edits_with_the_commits_that_are_no_waves(facts: StoreFacts) -> None:
    axes = life_figure(facts.life, facts.commits).axes[0]
    line, _, others = axes.lines
    assert points(line)[1] == [0, 3, 5, 6, 5]
    assert points(others) == ([4], [5])


def test_curves_of_a_stream(facts: StoreFacts) -> None:
    mine = [wave for wave in facts.measured_waves if wave.stream == "facts"]
    curves = quality_curves(mine)
    assert curves["earlier edits exact"] == [(2, 0.0)]
    assert [version for version, _ in curves["edits exact"]] == [1, 2]
    upper, lower = curves_figure(mine, "x").axes
    assert len(upper.lines) == len(curves)
    speeds = [wave.edits_per_second for wave in mine]
    assert points(lower.lines[0])[1] == speeds


@pytest.mark.parametrize("source", [r"$\frac$", "_hidden", "x" * 500])
def test_a_source_is_any_text(facts: StoreFacts, source: str) -> None:
    wave = with_source(facts.measured_waves[0], source)
    assert frequent_sources([wave]) == [source]
    assert picture(curves_figure([wave], "x"), "alt", "caption").src


def test_the_most_frequent_sources_come_first(facts: StoreFacts) -> None:
    often = with_source(facts.measured_waves[0], "often")
    assert frequent_sources([*facts.measured_waves, often])[0] == "often"


def test_the_same_figure_gives_the_same_picture(facts: StoreFacts) -> None:
    figure = life_figure(facts.life, facts.commits)
    first, again = (picture(figure, "a < b", "what it is") for _ in range(2))
    assert first == again
    assert first.src.startswith("data:image/svg+xml;base64,")
    assert (first.alt, first.caption) == ("a < b", "what it is")
    assert (first.width, first.height, first.is_wide) == (691, 288, False)


def test_very_many_lines_become_pixels_and_wide_ones_have_their_own_line(
    facts: StoreFacts,
) -> None:
    figure = life_figure(facts.life, facts.commits)
    for _ in range(500):
        figure.axes[0].plot([0, 1], [0, 1])
    figure.set_size_inches(9, 3)
    large = picture(figure, "a", "b")
    assert large.src.startswith("data:image/png;base64,")
    assert large.is_wide


def test_the_newest_evaluation_has_its_pictures(made: Path, facts: StoreFacts) -> None:
    pictures = list(evaluation_pictures(Storage(str(made)), facts))
    starts = ["Bars: ", "Counts of probes", "Bars by age", "Operating curve."]
    assert [one.alt.startswith(start) for one, start in zip(pictures, starts, strict=True)] == [
        True
    ] * 4
