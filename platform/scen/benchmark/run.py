"""Run a benchmark (every method on every number of edits), and tune the methods' settings."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from statistics import fmean
from typing import Any, NamedTuple

from scen.benchmark.questions import (
    PassageBenchmark,
    QuestionBenchmark,
    UpstreamTest,
    read_texts,
    read_upstream,
)
from scen.benchmark.settings import (
    BenchmarkSettings,
    Material,
    MethodSettings,
    Progress,
    Row,
    RowStore,
    read_edits,
    read_material,
    slice_edits,
)
from scen.errors import ConfigError
from scen.model.base import Base
from scen.records import Edit

OnRow = Callable[[Row], None]

_FEW = 40  # unrelated prompts used in tuning


def run_benchmark(
    base: Base,
    settings: BenchmarkSettings,
    store: RowStore,
    progress: Progress,
    on_row: OnRow = lambda _: None,
) -> list[Row]:
    """A row per method and number of edits; `on_row` is called with each.

    Rows already in the store are not measured again. Raises InputError if there is too little data,
    ConfigError if a setting is invalid.
    """
    rows = []
    bench = _Bench(base, settings, store)
    for size in settings.sizes:
        trial = bench.trial(bench.edits[:size], is_final=True)
        for method in settings.methods:
            rows.append(trial.measure(method, {}, progress))
            on_row(rows[-1])
    return rows


def tune(
    base: Base,
    settings: BenchmarkSettings,
    store: RowStore,
    progress: Progress,
    on_trial: Callable[[MethodSettings, dict[str, Any], Row, float], None],
) -> dict[str, dict[str, Any]]:
    """The best settings, by method name, of each method with a grid: those with the largest `merit`
    on the validation edits. `on_trial` is called with each trial. Raises ConfigError without
    validation edits."""
    if settings.validation is None:
        raise ConfigError("validation: --tune needs edits to try settings on, such as "
                          "{skip: 300, count: 60}")  # fmt: skip
    bench = _Bench(base, settings, store)
    trial = bench.trial(slice_edits(bench.edits, settings.validation), is_final=False)
    best: dict[str, dict[str, Any]] = {}
    for method in settings.methods:
        if not method.grid:
            continue
        scored = []
        for values in itertools.product(*method.grid.values()):
            tried = dict(zip(method.grid, values, strict=True))
            row = trial.measure(method, tried, progress)
            scored.append((merit(row), tried))
            on_trial(method, tried, row, scored[-1][0])
        best[method.name] = max(scored, key=lambda pair: pair[0])[1]
    return best


def merit(row: Row) -> float:
    """The tuning objective, larger is better. Questions: the mean of reliability and generality
    (both as target within the answer) and of locality on unrelated and same-subject questions.
    Passages: the negative mean of the logarithms of the perplexities."""
    figures = row.figures
    if "reliability" not in figures:
        perplexities = [v for name, v in figures.items() if name.startswith("perplexity/")]
        return -fmean(math.log(max(value, 1e-9)) for value in perplexities)
    names = [
        "contained/reliability",
        "contained/generality",
        "locality/unrelated",
        "locality/same subject",
    ]
    return fmean(figures[name] for name in names if name in figures)


class _Trial(NamedTuple):
    """A set of edits and its benchmark, which is prepared lazily and cached."""

    content: Sequence[Any]
    prepare: Callable[[], QuestionBenchmark | PassageBenchmark]
    store: RowStore

    def measure(self, method: MethodSettings, tried: dict[str, Any], progress: Progress) -> Row:
        """The row of a method, with some of its settings overridden."""
        editor = method.build(**tried)
        content = [*self.content, method.name, method.editor, {**method.settings, **tried}]
        return self.store.once(
            content, lambda: self.prepare().measure(method.name, editor, progress)
        )


class _Bench:
    """The data of a benchmark, from which trials on some of its edits are made."""

    def __init__(self, base: Base, settings: BenchmarkSettings, store: RowStore) -> None:
        self.base, self.settings, self.store = base, settings, store
        if settings.kind == "passages":
            self.edits: Sequence[Edit] = read_edits(settings)
            self.texts = read_texts(settings)
            self.others: Any = self.texts
        else:
            self.material: Material = read_material(settings)
            self.edits = self.material.edits
            self.others = [self.material.unrelated, self.material.same_kind]

    def trial(self, edits: Sequence[Edit], *, is_final: bool) -> _Trial:
        """A trial on these edits; final ones also run the upstream test and beam search."""
        excluded = {"name", "sizes", "methods", "validation", "base", "edits", "unrelated", "near"}
        options = self.settings.model_dump(mode="json", exclude=excluded)
        about = [self.base.fingerprint, str(self.base.dtype), options, is_final]
        content = [*about, [edit.digest for edit in edits], self.others]
        return _Trial(content, cache(lambda: self._prepare(edits, is_final)), self.store)

    def _prepare(
        self, edits: Sequence[Edit], is_final: bool
    ) -> QuestionBenchmark | PassageBenchmark:
        if self.settings.kind == "passages":
            return PassageBenchmark(self.base, edits, self.texts)
        settings = self.settings
        if not is_final:
            settings = settings.model_copy(update={"asking_limit": 0, "beam_limit": 0, "folds": 1})
            unrelated = self.material.unrelated[:_FEW]
            material = replace(self.material, unrelated=unrelated, same_kind=[])
            return QuestionBenchmark(self.base, settings, material, edits)
        upstream = UpstreamTest(self.base, read_upstream(settings.upstream_limit))
        return QuestionBenchmark(self.base, settings, self.material, edits, upstream)
