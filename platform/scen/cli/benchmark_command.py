"""`scen benchmark`: methods side by side, as tables, files and charts."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from scen.benchmark.material import Row, RowStore
from scen.benchmark.run import run_benchmark, tune
from scen.benchmark.settings import BenchmarkSettings, MethodSettings, load_benchmark
from scen.benchmark.tables import Grid, grids, markdown
from scen.cli.output import out, say, show_warnings, step_progress, write_json
from scen.cli.render import figures_table
from scen.errors import ConfigError
from scen.fs import Storage
from scen.model.base import Base, load_base
from scen.model.fetch import EMBEDDED_NAME
from scen.tracking.client import default_tracking_uri, ui_command
from scen.tracking.studies import BenchmarkRecord, MethodRecord, track_benchmark

_TABLES = "tables.md"


def run(args: argparse.Namespace) -> None:
    """Run a benchmark, or try settings for one."""
    show_warnings()
    settings = wanted(args)
    storage = Storage(args.out or default_folder(settings))
    if args.threads:
        torch.set_num_threads(args.threads)
    base = load(settings)
    if args.tune:
        _tune(base, settings, RowStore(storage), args.json)
        return
    with step_progress() as bars:
        rows = run_benchmark(
            base, settings, RowStore(storage), bars, lambda row: bars.start_wave(summary(row))
        )
    publish(args, settings, storage, base.name, rows)


def wanted(args: argparse.Namespace) -> BenchmarkSettings:
    """The benchmark of the file, cut down to the methods and sizes that were asked for. Raises
    ConfigError for a method that is not there."""
    settings = load_benchmark(Path(args.config))
    if args.method:
        known = [method.name for method in settings.methods]
        if unknown := [name for name in args.method if name not in known]:
            raise ConfigError(f"--method: {unknown[0]!r} is none of {', '.join(known)}")
        some = [method for method in settings.methods if method.name in args.method]
        settings = settings.model_copy(update={"methods": some})
    if args.size:
        settings = settings.model_copy(update={"sizes": sorted(set(args.size))})
    return settings


def default_folder(settings: BenchmarkSettings) -> str:
    """Where the rows of a benchmark are kept when nobody says."""
    return f".scen/benchmark/{settings.name}"


def load(settings: BenchmarkSettings) -> Base:
    """The base that a benchmark is about."""
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
    """The few figures of a row that people look for first."""
    known = row.figures
    names = ("reliability", "average", "perplexity/edited", "perplexity/near")
    shown = ", ".join(f"{name} {known[name]:.4g}" for name in names if name in known)
    return f"{row.method}, T={row.size}: {shown}; {known['seconds_per_edit']:.3g} s per edit"


def publish(
    args: argparse.Namespace,
    settings: BenchmarkSettings,
    storage: Storage,
    base_name: str,
    rows: Sequence[Row],
) -> None:
    """Tables to stdout and storage, everything to MLflow. Raises ScenError where that refuses."""
    found = list(grids(rows))
    storage.delete(_TABLES)
    told = markdown(found)
    storage.put_new(_TABLES, told.encode())
    tracking_uri = None if args.no_tracking else default_tracking_uri(None)
    if tracking_uri:
        track_benchmark(tracking_uri, _record(base_name, settings, rows, found, told))
    tables = storage.child_uri(_TABLES)
    if args.json:
        found_rows = [asdict(row) for row in rows]
        write_json({"rows": found_rows, "tables": tables, "tracking_uri": tracking_uri})
        return
    for grid in found:
        out.print(figures_table(grid.title, grid.heads, grid.lines))
    out.print(f"tables     {tables}", soft_wrap=True)
    if tracking_uri:
        out.print(f"MLflow     {ui_command(tracking_uri)}", soft_wrap=True)


def _tune(base: Base, settings: BenchmarkSettings, store: RowStore, is_json: bool) -> None:
    trials: list[dict[str, Any]] = []
    with step_progress() as bars:

        def told(method: MethodSettings, tried: dict[str, Any], row: Row, merit: float) -> None:
            trials.append({"method": method.name, "settings": tried, "merit": merit} | row.figures)
            bars.start_wave(f"{method.name} {json.dumps(tried)}: {merit:.4f}")

        best = tune(base, settings, store, bars, told)
    if is_json:
        write_json({"best": best, "trials": trials})
        return
    for name, tried in best.items():
        out.print(f"{name}: {json.dumps(tried)}", soft_wrap=True)


def _record(
    base_name: str,
    settings: BenchmarkSettings,
    rows: Sequence[Row],
    found: Sequence[Grid],
    told: str,
) -> BenchmarkRecord:
    by_name = {method.name: method for method in settings.methods}
    methods = []
    for row in rows:
        method = by_name[row.method]
        params = {"editor": method.editor}
        params |= {name: json.dumps(value) for name, value in method.settings.items()}
        methods.append(MethodRecord(row.method, row.size, params, row.figures, row.retention))
    tables = {
        f"table_{place}.json": [dict(zip(grid.heads, line, strict=False)) for line in grid.lines]
        for place, grid in enumerate(found, start=1)
    }
    about = settings.model_dump(mode="json", exclude={"methods", "base"})
    return BenchmarkRecord(
        name=settings.name,
        base_name=base_name,
        params={name: json.dumps(value) for name, value in about.items()},
        methods=methods,
        files={_TABLES: told},
        tables=tables,
    )
