"""Whole small benchmarks on the tiny base."""

from pathlib import Path
from typing import Any

import pytest
import torch

from scen.benchmark.run import merit, run_benchmark, tune
from scen.benchmark.settings import EDITORS, MethodSettings, Row, RowStore, load_benchmark
from scen.benchmark.tables import ASKED, LEFT_ALONE, PORTABLE, grids
from scen.data.asking import wordings
from scen.errors import ConfigError, InputError
from scen.model.base import Base
from unit.benchmark.conftest import QUICK, MakeBenchmark


def quiet(step: str, done: int, total: int) -> None:
    pass


def test_edits_are_answered_and_the_base_answers_as_the_base(
    tiny: Base, make_benchmark: MakeBenchmark, rows: RowStore
) -> None:
    told: list[str] = []
    base, platform = run_benchmark(
        tiny, make_benchmark(), rows, quiet, lambda row: told.append(row.method)
    )
    assert told == ["base", "platform"]
    assert base.figures["reliability"] == 0
    assert base.figures["locality/unrelated"] == base.figures["logits_identical"] == 1
    assert base.figures["bytes_per_edit"] == 0
    assert platform.figures["reliability"] == 1
    assert platform.figures["bytes_per_edit"] > 0
    assert platform.retention == [1.0] * 6
    assert platform.counts == {
        "reliability": 6,
        "generality/orig": 6,
        "locality/same subject": 6,
        "locality/unrelated": 4,
        "locality/same kind": 2,
    }
    for row in (base, platform):
        assert 0 <= row.figures["upstream/cloze"] <= 1
        assert row.figures["upstream/perplexity"] > 1
        assert row.figures["latency_edited"] > 0


@pytest.mark.slow
# peft asks transformers by the name that it had before.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
def test_every_method_runs_and_leaves_the_base_alone(tiny: Base, rows: RowStore) -> None:
    before = {name: p.detach().clone() for name, p in tiny.model.named_parameters()}
    settings = load_benchmark(Path("configs/eval/smoke.yaml"))
    results = run_benchmark(tiny, settings, rows, quiet)
    assert {method.editor for method in settings.methods} == set(EDITORS)
    after = {name.replace(".linear.", "."): p for name, p in tiny.model.named_parameters()}
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], p) for name, p in before.items())
    for row in results:
        is_bare = row.method == "base"
        assert (row.figures["bytes_per_edit"] > 0) is not is_bare
        assert row.figures["seconds_per_edit"] >= 0
        assert row.figures[f"{PORTABLE}inverse"] == 0  # of a random base
    [table] = [grid for grid in grids(results) if grid.title.startswith("What an edit brings")]
    assert len(table.lines) == len(settings.methods)


@pytest.mark.slow
def test_edits_are_asked_in_other_ways(
    tiny: Base, make_benchmark: MakeBenchmark, rows: RowStore
) -> None:
    limit = len(wordings("test").ways) + len(wordings("test").tasks)
    settings = make_benchmark(asking_limit=2 * limit)
    base, platform = run_benchmark(tiny, settings, rows, quiet)
    ways = [name for name in platform.counts if name.startswith(ASKED)]
    assert {name.removeprefix(ASKED) for name in ways} <= set(wordings("test").ways)
    assert len(ways) > 15
    assert {platform.counts[name] for name in ways} <= {1, 2}
    assert [base.figures[name] for name in ways] == [0] * len(ways)
    assert sum(platform.figures[name] for name in ways) > 0
    tasks = [name for name in base.counts if name.startswith(LEFT_ALONE)]
    assert tasks
    assert [base.figures[name] for name in tasks] == [1] * len(tasks)
    titles = [grid.title for grid in grids([base, platform])]
    assert "Edits asked in other ways, exact answers, %" in titles
    assert "Tasks about an edit's question or subject, answered as by the base, %" in titles


@pytest.mark.slow
def test_rows_that_are_there_are_not_measured_again(
    tiny: Base, make_benchmark: MakeBenchmark, rows: RowStore
) -> None:
    steps: list[str] = []

    def progress(step: str, done: int, total: int) -> None:
        steps.append(step)

    first = run_benchmark(tiny, make_benchmark(), rows, progress)
    assert steps
    steps.clear()
    assert run_benchmark(tiny, make_benchmark(), rows, progress) == first
    assert steps == []
    run_benchmark(tiny, make_benchmark(unrelated_limit=2), rows, progress)
    assert steps  # other questions, other rows


@pytest.mark.slow
def test_each_size_is_edited_separately(
    tiny: Base, make_benchmark: MakeBenchmark, rows: RowStore
) -> None:
    methods = [{"name": "platform", "editor": "platform", "settings": QUICK}]
    settings = make_benchmark(sizes=[2, 4], methods=methods)
    found = run_benchmark(tiny, settings, rows, quiet)
    assert [row.size for row in found] == [2, 4]
    assert [row.counts["reliability"] for row in found] == [2, 4]


def test_the_best_of_a_grid_is_found(
    tiny: Base, make_benchmark: MakeBenchmark, rows: RowStore
) -> None:
    weak = {**QUICK["expert"], "steps": 1, "lr": 1e-6}  # type: ignore[dict-item]
    platform = {
        "name": "platform",
        "editor": "platform",
        "settings": QUICK,
        "grid": {"expert": [weak, QUICK["expert"]]},
    }
    settings = make_benchmark(
        sizes=[4],
        same_kind=None,
        validation={"skip": 4, "count": 2},
        methods=[{"name": "base", "editor": "base"}, platform],
    )
    trials: list[tuple[str, Any, float]] = []

    def told(method: MethodSettings, tried: dict[str, Any], row: Row, merit: float) -> None:
        trials.append((method.name, tried["expert"]["steps"], merit))

    best = tune(tiny, settings, rows, quiet, told)
    assert best == {"platform": {"expert": QUICK["expert"]}}
    assert [(name, steps) for name, steps, _ in trials] == [("platform", 1), ("platform", 40)]
    assert trials[0][2] < trials[1][2]


def test_trying_settings_needs_edits_for_it(
    tiny: Base, make_benchmark: MakeBenchmark, rows: RowStore
) -> None:
    with pytest.raises(ConfigError, match=r"^validation: --tune needs edits"):
        tune(tiny, make_benchmark(), rows, quiet, lambda *_: None)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sizes": [9]}, r"^sizes: .* has 8 edits, not 9"),
        ({"same_kind": {"skip": 5, "count": 2}}, r"^same_kind\.skip: must be at least 6"),
        ({"same_kind": {"skip": 6, "count": 3}}, r"has 8 edits, not 9"),
    ],
)
def test_too_little_data_is_an_error(
    tiny: Base, make_benchmark: MakeBenchmark, rows: RowStore, fields: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        run_benchmark(tiny, make_benchmark(**fields), rows, quiet)


def test_passages_are_chosen_by_perplexity() -> None:
    low = Row("a", 1, {"perplexity/edited": 2.0, "perplexity/near": 8.0}, [], {})
    high = Row("b", 1, {"perplexity/edited": 4.0, "perplexity/near": 8.0}, [], {})
    assert merit(low) > merit(high)
