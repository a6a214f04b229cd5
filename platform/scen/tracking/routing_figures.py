"""Figures of where probes went, from the outcomes of an evaluation (see `probe_rows`)."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from scen.tracking.figures import tidy
from scen.tracking.probe_rows import (
    NEGATIVES,
    POSITIVES,
    ROUTES,
    Rows,
    by_age,
    operating_curve,
    operating_point,
    own_edits,
    route_table,
)

_COLORS = dict(zip(POSITIVES.values(), ("#2563a8", "#d9480f", "#5f6b7a"), strict=True))
_WIDTHS = dict(zip(POSITIVES.values(), (4.0, 2.6, 1.2), strict=True))  # so that none hides another
_LONGEST_NAME = 40  # characters; a source is any text
_OLD, _NEW = "#2563a8", "#d9480f"


def operating_curve_figure(rows: Rows, title: str, threshold: float | None = None) -> Figure | None:
    """Probes that would reach their edit against those that should reach none but would, as the
    threshold moves: a panel per kind of the latter, a line per kind of the former, the store's own
    threshold as a point. None where either was not probed. See `operating_curve` for what counts.
    """
    curve, point = operating_curve(rows, threshold), operating_point(rows)
    found = [name for name in POSITIVES.values() if name in point]
    false = [name for name in NEGATIVES.values() if name in point]
    if not (curve and found and false):
        return None
    figure = Figure(figsize=(1.4 + 4.1 * len(false), 4.4), dpi=130, layout="constrained")
    panels = figure.subplots(1, len(false), squeeze=False, sharey=True)[0]
    for axes, kind in zip(panels, false, strict=True):
        for name in found:
            line = [(100 * cut[kind], 100 * cut[name]) for cut in curve]
            look = {"color": _COLORS[name], "linewidth": _WIDTHS[name]}
            axes.plot(*zip(*line, strict=True), **look, label=name)
            axes.plot([100 * point[kind]], [100 * point[name]], "o", **look, ms=5 + _WIDTHS[name])
        axes.set_xscale("symlog", linthresh=1)  # 0 must be on it
        axes.set(xlim=(-0.1, 110), xlabel=f"{kind} that reach an edit, %")
        axes.xaxis.set_major_formatter("{x:g}")
        tidy(axes, grid="y")
    panels[0].set(ylim=(-3, 103), ylabel="reach their edit, %")
    figure.suptitle(title)
    _name_point(panels[-1], threshold)
    handles, labels = panels[-1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return figure


def routes_figure(rows: Rows, title: str) -> Figure | None:
    """The confusion of routes: kinds of probes by where they went, as counts and shares of the
    kind. The cell where a kind belongs has a frame. None where nothing was probed."""
    table = route_table(rows)
    if not table:
        return None
    figure = Figure(figsize=(7.2, 1.6 + 0.6 * len(table)), dpi=130, layout="constrained")
    axes = figure.subplots()
    shares = [[float(line[f"{route} share"]) for route in ROUTES] for line in table]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for y, line in enumerate(table):
        for x, route in enumerate(ROUTES):
            label = f"{line[route]:,}  ({100 * shares[y][x]:.1f} %)"
            color = "white" if shares[y][x] > 0.5 else "#2b2f36"
            axes.text(x, y, label, ha="center", va="center", color=color, fontsize=9)
        right = ROUTES.index("base" if line["probes"] in NEGATIVES.values() else "own edit")
        frame = Rectangle((right - 0.48, y - 0.45), 0.96, 0.9, fill=False, ec=_NEW, lw=1.6)
        axes.add_patch(frame)
    axes.set_xticks(range(len(ROUTES)), ROUTES)
    names = [f"{str(line['probes'])[:_LONGEST_NAME]} ({line['asked']:,})" for line in table]
    axes.set_yticks(range(len(table)), names, parse_math=False)  # names are any text
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set(title=title, xlabel="went to (framed: where it belongs)")
    return figure


def retention_by_age_figure(rows: Rows, title: str) -> Figure | None:
    """Exact answers of earlier edits by tenth of age, the oldest first, and of the wave's own; with
    the numbers behind each. None where no earlier edit was asked."""
    earlier, own = by_age(rows), own_edits(rows)
    if not earlier:
        return None
    groups = [*earlier, *own]
    figure = Figure(figsize=(7.2, 4.0), dpi=130, layout="constrained")
    axes = figure.subplots()
    colors = [_OLD] * len(earlier) + [_NEW] * len(own)
    bars = axes.bar(range(len(groups)), [100 * group.share for group in groups], color=colors)
    axes.bar_label(bars, [f"{g.exact} of {g.asked}" for g in groups], padding=2, fontsize=7)
    axes.set_xticks(range(len(groups)), [group.name for group in groups])
    axes.set(
        title=title,
        xlabel="parts of the earlier edits by age (1: the oldest)",
        ylabel="answered exactly, %",
        ylim=(0, 108),
    )
    tidy(axes, grid="y")
    return figure


def _name_point(axes: Axes, threshold: float | None) -> None:
    """An entry of the legend for the points."""
    value = "" if threshold is None else f", {threshold:.3g}"
    name = f"the store's threshold{value}"
    axes.plot([], [], "o", color="#2b2f36", ms=8, label=name)
