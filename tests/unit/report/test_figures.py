"""Figures of a store: what is drawn is what was read."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.lines import Line2D

from scen.report.figures import curves_figure, frequent_sources, life_figure, quality_curves
from scen.report.pictures import gallery, picture
from scen.report.read_store import StoreFacts
from scen.report.read_waves import WaveFacts


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
    assert "src=" in picture(curves_figure([wave], "x"), "alt", "caption")


def test_the_most_frequent_sources_come_first(facts: StoreFacts) -> None:
    often = with_source(facts.measured_waves[0], "often")
    assert frequent_sources([*facts.measured_waves, often])[0] == "often"


def test_a_picture_is_in_the_page_and_has_words(facts: StoreFacts) -> None:
    figure = life_figure(facts.life, facts.commits)
    first, again = (picture(figure, "a < b", "what it is") for _ in range(2))
    assert first == again
    assert 'src="data:image/svg+xml;base64,' in first
    assert 'alt="a &lt; b"' in first
    assert "<figcaption>what it is</figcaption>" in first
    assert 'class="wide"' not in first


def test_very_many_lines_become_pixels_and_wide_ones_have_their_own_line(
    facts: StoreFacts,
) -> None:
    figure = life_figure(facts.life, facts.commits)
    for _ in range(500):
        figure.axes[0].plot([0, 1], [0, 1])
    figure.set_size_inches(9, 3)
    found = picture(figure, "a", "b")
    assert 'src="data:image/png;base64,' in found
    assert found.startswith('<figure class="wide">')
    assert gallery([found]) == f'<div class="pictures">{found}</div>'
