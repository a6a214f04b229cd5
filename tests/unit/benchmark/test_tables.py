"""Rows as tables."""

from scen.benchmark.settings import Row
from scen.benchmark.tables import grids, markdown

FIGURES = {
    "reliability": 0.9951,
    "generality/orig": 0.5,
    "locality/unrelated": 1.0,
    "average": 0.83,
    "logits_identical": 1.0,
    "seconds_per_edit": 0.12345,
    "bytes_per_edit": 1_234_500.0,
}


def test_columns_that_nobody_has_are_left_out() -> None:
    answers, retention, *_, cost = grids([Row("a", 4, FIGURES, [1.0, 0.5], {})])
    assert answers.heads == ["method", "edits", "rephrases, data set", "unrelated", "average"]
    assert answers.lines == [["a", "99.5", "50.0", "100.0", "83.0"]]
    assert retention.heads == ["method", "oldest", "newest"]
    assert retention.lines == [["a", "100.0", "50.0"]]
    assert cost.lines == [["a", "0.123", "1,234.5"]]


def test_several_sizes_have_a_column() -> None:
    rows = [Row("a", size, FIGURES, [1.0] * 10, {}) for size in (10, 20)]
    answers, retention, *_ = grids(rows)
    assert answers.heads[:2] == ["method", "T"]
    assert [line[:2] for line in answers.lines] == [["a", "10"], ["a", "20"]]
    assert retention.heads == ["method", "T", "oldest", *map(str, range(2, 10)), "newest"]


def test_a_method_without_a_figure_has_an_empty_cell() -> None:
    less = {name: value for name, value in FIGURES.items() if name != "generality/orig"}
    answers, *_ = grids([Row("a", 4, FIGURES, [1.0], {}), Row("b", 4, less, [1.0], {})])
    assert answers.lines[1] == ["b", "99.5", "", "100.0", "83.0"]


def test_passages_have_their_own_table() -> None:
    [grid] = grids([Row("a", 4, {"perplexity/edited": 2.345, "perplexity/near": 7.0}, [], {})])
    assert grid.lines == [["a", "2.35", "7.00"]]


def test_markdown_has_a_rule_and_a_line_per_row() -> None:
    text = markdown(list(grids([Row("a", 4, {"perplexity/edited": 2.345}, [], {})])))
    assert text == "Perplexity:\n\n| method | edited sentences |\n| --- | ---: |\n| a | 2.35 |\n"
