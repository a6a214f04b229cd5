"""A benchmark, whole: every method on every number of edits; and the search for settings."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from scen.base.load import Base
from scen.benchmark.edited import Editor
from scen.benchmark.figures import PUBLISHED
from scen.benchmark.material import Material, Progress, Row, cut, read_edits, read_material
from scen.benchmark.passages import Passages, read_texts
from scen.benchmark.questions import Questioning
from scen.benchmark.settings import BenchmarkSettings, MethodSettings
from scen.benchmark.upstream import UpstreamTest, read_upstream
from scen.errors import ConfigError
from scen.records import Edit

Measure = Callable[[str, Editor, Progress], Row]
Told = Callable[[Row], None]

_FEW = 40  # unrelated prompts that are asked while settings are searched


def run_benchmark(
    base: Base, settings: BenchmarkSettings, progress: Progress, told: Told = lambda _: None
) -> list[Row]:
    """A row per method and number of edits; `told` hears of each as it is done.

    Raises InputError where the data is too little, ConfigError where a setting does not fit.
    """
    rows = []
    bench = _Bench(base, settings)
    for size in settings.sizes:
        measure = bench.on(bench.edits[:size], is_final=True)
        for method in settings.methods:
            rows.append(measure(method.name, method.build(), progress))
            told(rows[-1])
    return rows


def tune(
    base: Base,
    settings: BenchmarkSettings,
    progress: Progress,
    told: Callable[[MethodSettings, dict[str, Any], Row, float], None],
) -> dict[str, dict[str, Any]]:
    """The best settings of each method that has a grid, by its name: those with the largest `merit`
    on the validation edits. `told` hears of each trial. Raises ConfigError without such edits."""
    if settings.validation is None:
        raise ConfigError("validation: --tune needs edits to try settings on, such as "
                          "{skip: 300, count: 60}")  # fmt: skip
    bench = _Bench(base, settings)
    measure = bench.on(cut(bench.edits, settings.validation), is_final=False)
    best: dict[str, dict[str, Any]] = {}
    for method in settings.methods:
        trials = []
        for values in itertools.product(*method.grid.values()):
            tried = dict(zip(method.grid, values, strict=True))
            row = measure(method.name, method.build(**tried), progress)
            trials.append((merit(row), tried))
            told(method, tried, row, trials[-1][0])
        if method.grid:
            best[method.name] = max(trials, key=lambda trial: trial[0])[1]
    return best


def merit(row: Row) -> float:
    """What settings are chosen by. Questions: the mean of reliability, published generality, and
    locality of unrelated and same-subject questions. Passages: the less, the higher the mean of the
    logarithms of the perplexities."""
    found = row.figures
    if "reliability" not in found:
        perplexities = [v for name, v in found.items() if name.startswith("perplexity/")]
        return -fmean(math.log(max(value, 1e-9)) for value in perplexities)
    names = [
        "reliability",
        f"generality/{PUBLISHED}",
        "locality/unrelated",
        "locality/same subject",
    ]
    return fmean(found[name] for name in names if name in found)


class _Bench:
    """The data of a benchmark, and how a method is measured on some of its edits."""

    def __init__(self, base: Base, settings: BenchmarkSettings) -> None:
        self.base, self.settings = base, settings
        if settings.kind == "passages":
            self.edits: Sequence[Edit] = read_edits(settings)
            self.texts = read_texts(settings)
        else:
            self.material: Material = read_material(settings)
            self.edits = self.material.edits

    def on(self, edits: Sequence[Edit], *, is_final: bool) -> Measure:
        """Measures methods on these edits; the final ones upstream and by beam search too."""
        if self.settings.kind == "passages":
            return Passages(self.base, edits, self.texts).measure
        settings = self.settings
        if not is_final:
            settings = settings.model_copy(update={"beam_limit": 0, "folds": 1})
            unrelated = self.material.unrelated[:_FEW]
            material = replace(self.material, unrelated=unrelated, same_kind=[])
            return Questioning(self.base, settings, material, edits).measure
        upstream = UpstreamTest(self.base, read_upstream())
        return Questioning(self.base, settings, self.material, edits, upstream).measure
