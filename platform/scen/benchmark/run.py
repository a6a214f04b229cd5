"""A benchmark, whole: every method on every number of edits; and the search for settings."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from statistics import fmean
from typing import Any, NamedTuple

from scen.benchmark.questions import Passages, Questioning, UpstreamTest, read_texts, read_upstream
from scen.benchmark.settings import (
    BenchmarkSettings,
    Material,
    MethodSettings,
    Progress,
    Row,
    RowStore,
    cut,
    read_edits,
    read_material,
)
from scen.errors import ConfigError
from scen.model.base import Base
from scen.records import Edit

Told = Callable[[Row], None]

_FEW = 40  # unrelated prompts that are asked while settings are searched


def run_benchmark(
    base: Base,
    settings: BenchmarkSettings,
    store: RowStore,
    progress: Progress,
    told: Told = lambda _: None,
) -> list[Row]:
    """A row per method and number of edits; `told` hears of each as it is done.

    Rows that are in the store are not measured again. Raises InputError where the data is too
    little, ConfigError where a setting does not fit.
    """
    rows = []
    bench = _Bench(base, settings, store)
    for size in settings.sizes:
        course = bench.course(bench.edits[:size], is_final=True)
        for method in settings.methods:
            rows.append(course.measure(method, {}, progress))
            told(rows[-1])
    return rows


def tune(
    base: Base,
    settings: BenchmarkSettings,
    store: RowStore,
    progress: Progress,
    told: Callable[[MethodSettings, dict[str, Any], Row, float], None],
) -> dict[str, dict[str, Any]]:
    """The best settings of each method that has a grid, by its name: those with the largest `merit`
    on the validation edits. `told` hears of each trial. Raises ConfigError without such edits."""
    if settings.validation is None:
        raise ConfigError("validation: --tune needs edits to try settings on, such as "
                          "{skip: 300, count: 60}")  # fmt: skip
    bench = _Bench(base, settings, store)
    course = bench.course(cut(bench.edits, settings.validation), is_final=False)
    best: dict[str, dict[str, Any]] = {}
    for method in settings.methods:
        if not method.grid:
            continue
        trials = []
        for values in itertools.product(*method.grid.values()):
            tried = dict(zip(method.grid, values, strict=True))
            row = course.measure(method, tried, progress)
            trials.append((merit(row), tried))
            told(method, tried, row, trials[-1][0])
        best[method.name] = max(trials, key=lambda trial: trial[0])[1]
    return best


def merit(row: Row) -> float:
    """What settings are chosen by. Questions: the mean of reliability and generality, both where
    the target stands within the answer, and locality of unrelated and same-subject questions.
    Passages: the less, the higher the mean of the logarithms of the perplexities."""
    found = row.figures
    if "reliability" not in found:
        perplexities = [v for name, v in found.items() if name.startswith("perplexity/")]
        return -fmean(math.log(max(value, 1e-9)) for value in perplexities)
    names = [
        "contained/reliability",
        "contained/generality",
        "locality/unrelated",
        "locality/same subject",
    ]
    return fmean(found[name] for name in names if name in found)


class _Course(NamedTuple):
    """Some edits and what they are measured by, which is prepared when it is first needed."""

    content: Sequence[Any]
    prepare: Callable[[], Questioning | Passages]
    store: RowStore

    def measure(self, method: MethodSettings, tried: dict[str, Any], progress: Progress) -> Row:
        """The row of a method, some of its settings otherwise."""
        editor = method.build(**tried)
        content = [*self.content, method.name, method.editor, {**method.settings, **tried}]
        return self.store.once(
            content, lambda: self.prepare().measure(method.name, editor, progress)
        )


class _Bench:
    """The data of a benchmark, and how a method is measured on some of its edits."""

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

    def course(self, edits: Sequence[Edit], *, is_final: bool) -> _Course:
        """These edits; the final ones are measured upstream and by beam search too."""
        rest = {"name", "sizes", "methods", "validation", "base", "edits", "unrelated", "near"}
        asked = self.settings.model_dump(mode="json", exclude=rest)
        about = [self.base.fingerprint, str(self.base.dtype), asked, is_final]
        content = [*about, [edit.digest for edit in edits], self.others]
        return _Course(content, cache(lambda: self._prepare(edits, is_final)), self.store)

    def _prepare(self, edits: Sequence[Edit], is_final: bool) -> Questioning | Passages:
        if self.settings.kind == "passages":
            return Passages(self.base, edits, self.texts)
        settings = self.settings
        if not is_final:
            settings = settings.model_copy(update={"asking_limit": 0, "beam_limit": 0, "folds": 1})
            unrelated = self.material.unrelated[:_FEW]
            material = replace(self.material, unrelated=unrelated, same_kind=[])
            return Questioning(self.base, settings, material, edits)
        upstream = UpstreamTest(self.base, read_upstream(settings.upstream_limit))
        return Questioning(self.base, settings, self.material, edits, upstream)
