"""Load a benchmark and publish its tables and MLflow runs: shared by `scen benchmark` and its
job."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from scen.benchmark.settings import BenchmarkSettings, Row, load_benchmark
from scen.benchmark.tables import Grid, grids, markdown
from scen.errors import ConfigError
from scen.fs import Storage
from scen.model.base import Base, load_base
from scen.model.weights import EMBEDDED_NAME
from scen.snapshot.open import Say
from scen.tracking.client import default_tracking_uri
from scen.tracking.studies import BenchmarkRecord, MethodRecord, track_benchmark

_TABLES = "tables.md"


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
