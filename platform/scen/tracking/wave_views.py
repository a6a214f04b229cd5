"""What a wave's run shows beside its numbers: tables and figures, made from its record."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from scen.tracking.figures import before_after_figure, before_after_pairs, loss_figure
from scen.tracking.loss_curves import finite_curves
from scen.tracking.probe_rows import asking_table, operating_curve, route_table
from scen.tracking.routing_figures import (
    operating_curve_figure,
    retention_by_age_figure,
    routes_figure,
)
from scen.tracking.wave_record import WaveRecord

_PROBES_FILE = "per_edit.json"
_ROUTES_FILE = "routes.json"
_CURVE_FILE = "routing_operating_curve.json"
_ASKING_FILE = "ways_of_asking.json"


def wave_tables(record: WaveRecord) -> dict[str, Sequence[Mapping[str, object]]]:
    """Rows by the name of their file: each probe, the routes, the routing operating curve; those
    that there are."""
    rows = record.per_edit
    tables: dict[str, Sequence[Mapping[str, object]]] = {
        _PROBES_FILE: rows,
        _ROUTES_FILE: route_table(rows),
        _CURVE_FILE: operating_curve(rows, record.threshold),
        _ASKING_FILE: asking_table(rows),
    }
    return {name: table for name, table in tables.items() if table}


def wave_figures(record: WaveRecord, metrics: Mapping[str, float]) -> dict[str, Figure]:
    """Figures by name, of what there is to draw. `metrics` are the finite ones of the record."""
    wave, rows = f"{record.stream}, wave {record.wave}", record.per_edit
    made = {
        "loss_curves": _loss(record, f"Training loss: {wave}"),
        "before_after": _before_after(metrics, f"Before and after: {wave}"),
        "routing_operating_curve": operating_curve_figure(
            rows, f"Routing as the threshold moves: {wave}", record.threshold
        ),
        "routes": routes_figure(rows, f"Where probes went: {wave}"),
        "retention_by_age": retention_by_age_figure(rows, f"Retention by age: {wave}"),
    }
    return {name: figure for name, figure in made.items() if figure is not None}


def _loss(record: WaveRecord, title: str) -> Figure | None:
    return loss_figure(record.loss_curves, title) if finite_curves(record.loss_curves) else None


def _before_after(metrics: Mapping[str, float], title: str) -> Figure | None:
    pairs = before_after_pairs(metrics)
    return before_after_figure(pairs, title) if pairs else None
