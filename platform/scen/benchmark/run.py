"""Read a benchmark, run it (every method on every number of edits), tune the methods' settings, and
publish tables and MLflow runs."""

import itertools
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
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
    load_benchmark,
    read_edits,
    read_material,
    slice_edits,
)
from scen.benchmark.tables import Grid, grids, markdown
from scen.errors import ConfigError
from scen.fs import Storage
from scen.model.base import Base, load_base
from scen.model.weights import EMBEDDED_NAME
from scen.records import Edit
from scen.snapshot.open import Say
from scen.tracking.client import default_tracking_uri
from scen.tracking.studies import BenchmarkRecord, MethodRecord, track_benchmark

OnRow = Callable[[Row], None]

_TABLES = "tables.md"
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
            settings = settings.model_copy(
                update={"asking_limit": 0, "portability_limit": 0, "beam_limit": 0, "folds": 1}
            )
            unrelated = self.material.unrelated[:_FEW]
            material = replace(self.material, unrelated=unrelated, same_kind=[])
            return QuestionBenchmark(self.base, settings, material, edits)
        upstream = UpstreamTest(self.base, read_upstream(settings.upstream_limit))
        return QuestionBenchmark(self.base, settings, self.material, edits, upstream)


@dataclass(frozen=True)
class Published:
    """Rows, their tables, the URI of the table file, and where rows are tracked (None:
    nowhere)."""

    rows: Sequence[Row]
    grids: Sequence[Grid]
    tables: str
    tracking_uri: str | None


def read_benchmark(
    file: str, methods: Iterable[str] = (), sizes: Iterable[int] = ()
) -> BenchmarkSettings:
    """The benchmark of a file, restricted to `methods` and `sizes` if given. Raises ConfigError for
    an unknown method."""
    settings, names = load_benchmark(Path(file)), list(methods)
    if names:
        known = [method.name for method in settings.methods]
        if unknown := [name for name in names if name not in known]:
            raise ConfigError(f"--method: {unknown[0]!r} is none of {', '.join(known)}")
        chosen = [method for method in settings.methods if method.name in names]
        settings = settings.model_copy(update={"methods": chosen})
    chosen_sizes = sorted(set(sizes))
    return settings.model_copy(update={"sizes": chosen_sizes}) if chosen_sizes else settings


def load_benchmark_base(settings: BenchmarkSettings, say: Say) -> Base:
    """The base to edit. Raises BaseError."""
    name = settings.base.name or EMBEDDED_NAME
    say(f"loading base {name}")
    return load_base(
        name,
        template=settings.base.template,
        dtype=settings.base.dtype,
        device=settings.base.device,
        say=say,
    )


def summary(row: Row) -> str:
    """The main figures of a row, in one line."""
    figures = row.figures
    names = ("reliability", "average", "perplexity/edited", "perplexity/near")
    shown = ", ".join(f"{name} {figures[name]:.4g}" for name in names if name in figures)
    return f"{row.method}, T={row.size}: {shown}; {figures['seconds_per_edit']:.3g} s per edit"


def publish(
    settings: BenchmarkSettings,
    storage: Storage,
    base_name: str,
    rows: Sequence[Row],
    *,
    tracking: bool,
) -> Published:
    """Write the tables to storage and, with `tracking`, everything to MLflow. Raises ScenError."""
    tables = list(grids(rows))
    storage.delete(_TABLES)
    text = markdown(tables)
    storage.put_new(_TABLES, text.encode())
    tracking_uri = default_tracking_uri(None) if tracking else None
    if tracking_uri:
        track_benchmark(tracking_uri, _record(base_name, settings, rows, tables, text))
    return Published(rows, tables, storage.child_uri(_TABLES), tracking_uri)


def _record(
    base_name: str,
    settings: BenchmarkSettings,
    rows: Sequence[Row],
    tables: Sequence[Grid],
    text: str,
) -> BenchmarkRecord:
    by_name = {method.name: method for method in settings.methods}
    methods = []
    for row in rows:
        method = by_name[row.method]
        params = {"editor": method.editor}
        params |= {name: json.dumps(value) for name, value in method.settings.items()}
        methods.append(MethodRecord(row.method, row.size, params, row.figures, row.retention))
    about = settings.model_dump(mode="json", exclude={"methods", "base"})
    return BenchmarkRecord(
        name=settings.name,
        base_name=base_name,
        params={name: json.dumps(value) for name, value in about.items()},
        methods=methods,
        files={_TABLES: text},
        tables={
            f"table_{number}.json": [
                dict(zip(grid.heads, line, strict=False)) for line in grid.lines
            ]
            for number, grid in enumerate(tables, start=1)
        },
    )
