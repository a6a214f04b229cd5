"""Figures of a wave: plain Figure objects, without pyplot and its global state."""

from collections.abc import Mapping
from statistics import fmean, median
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FormatStrFormatter, MaxNLocator

from scen.tracking.client import WaveRecord
from scen.tracking.summaries import (
    NEGATIVES,
    POSITIVES,
    ROUTES,
    Curves,
    Outcomes,
    before_after_pairs,
    by_age,
    finite_curves,
    losses_by_step,
    operating_curve,
    operating_point,
    own_edits,
    record_outcomes,
    route_table,
)

Pairs = Mapping[str, tuple[float, float]]

BLUE, ORANGE = "#2563a8", "#d9480f"
_BEFORE, _INK = "#b8bec8", "#2b2f36"
_LOSS_FLOOR = 1e-4  # lower end of the logarithmic axis
_KIND_COLORS = dict(zip(POSITIVES.values(), (BLUE, ORANGE, "#5f6b7a"), strict=True))
_WIDTHS = dict(
    zip(POSITIVES.values(), (4.0, 2.6, 1.2), strict=True)
)  # different, so that no line hides another
_LONGEST_NAME = 40  # characters; a source is any text


def new_figure(height: float, width: float = 7.2) -> tuple[Figure, Axes]:
    """An empty figure of one panel; sizes in inches."""
    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    return figure, figure.subplots()


def tidy(axes: Axes, grid: Literal["x", "y"]) -> None:
    """The common style: no frame, a light grid in the background."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color="#e3e6ea", linewidth=0.8)
    axes.set_axisbelow(True)


def wave_figures(record: WaveRecord, metrics: Mapping[str, float]) -> dict[str, Figure]:
    """The figures of a wave's run by name; `metrics` are the finite ones of the record."""
    wave = f"{record.stream}, wave {record.wave}"
    outcomes = record_outcomes(record)
    figures = {
        "loss_curves": loss_figure(record.loss_curves, f"Training loss: {wave}"),
        "before_after": before_after_figure(
            before_after_pairs(metrics), f"Before and after: {wave}"
        ),
        "routing_operating_curve": operating_curve_figure(
            outcomes, f"Routing as the threshold moves: {wave}", record.threshold
        ),
        "routes": routes_figure(outcomes, f"Where probes went: {wave}"),
        "retention_by_age": retention_by_age_figure(outcomes, f"Retention by age: {wave}"),
    }
    return {name: figure for name, figure in figures.items() if figure is not None}


def loss_figure(curves: Curves, title: str) -> Figure | None:
    """The training loss of every edit as a thin line, with mean and median of the wave on top. None
    if no loss is finite."""
    kept = [[max(loss, _LOSS_FLOOR) for loss in curve] for curve in finite_curves(curves)]
    if not kept:
        return None
    figure, axes = new_figure(4.2)
    alpha = max(0.15, min(0.7, 12 / len(kept)))
    for curve in kept:
        axes.plot(curve, color=BLUE, linewidth=0.8, alpha=alpha)
    axes.plot([], color=BLUE, linewidth=0.8, label=f"one edit ({len(kept)} in all)")
    steps = losses_by_step(kept)
    axes.plot([fmean(losses) for losses in steps], color=ORANGE, linewidth=2.4, label="mean")
    axes.plot([median(losses) for losses in steps], color=ORANGE, linestyle=":", label="median")
    axes.set(title=title, xlabel="training step", ylabel="loss (log scale)", yscale="log")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.legend(frameon=False)
    tidy(axes, grid="y")
    return figure


def before_after_figure(pairs: Pairs, title: str) -> Figure | None:
    """Each pair as two bars: rates (0 to 1) in percent, other numbers in a panel below. None if
    there are no pairs."""
    if not pairs:
        return None
    rates = {name: pair for name, pair in pairs.items() if min(pair) >= 0 and max(pair) <= 1}
    others = {name: pair for name, pair in pairs.items() if name not in rates}
    panels = [panel for panel in (rates, others) if panel]
    figure = Figure(
        figsize=(7.2, 1.3 + 0.62 * len(pairs) + 0.5 * len(panels)), dpi=130, layout="constrained"
    )
    heights = [len(panel) for panel in panels]
    rows = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, panel in zip(rows, panels, strict=True):
        if panel is rates:
            _draw_pairs(axes, {name: (100 * a, 100 * b) for name, (a, b) in panel.items()}, "%.1f")
            axes.set(xlim=(0, 112), xlabel="percent")
            axes.set_xticks(range(0, 101, 20))
        else:
            _draw_pairs(axes, panel, "%.3g")
            axes.set_xlabel("value")
            axes.margins(x=0.15)
    rows[0].set_title(title)
    figure.legend(
        *rows[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False
    )
    return figure


def _draw_pairs(axes: Axes, pairs: Pairs, number_format: str) -> None:
    names = list(pairs)
    for offset, color, label, which in ((-0.19, _BEFORE, "before", 0), (0.19, BLUE, "after", 1)):
        bars = axes.barh(
            [row + offset for row in range(len(names))],
            [pairs[name][which] for name in names],
            height=0.36,
            color=color,
            label=label,
        )
        axes.bar_label(bars, fmt=number_format, padding=3, fontsize=8)
    axes.set_yticks(range(len(names)), [_readable(name) for name in names])
    axes.invert_yaxis()
    tidy(axes, grid="x")


def _readable(name: str) -> str:
    return name.removeprefix("eval/").replace("_", " ")


def operating_curve_figure(
    outcomes: Outcomes, title: str, threshold: float | None = None
) -> Figure | None:
    """Positives that reach their edit over negatives that reach an edit, as the threshold moves: a
    panel per kind of negatives, a line per kind of positives, and the store's own threshold as a
    point. None if either was not probed. See `operating_curve`.
    """
    curve, point = operating_curve(outcomes, threshold), operating_point(outcomes)
    reached = [name for name in POSITIVES.values() if name in point]
    false = [name for name in NEGATIVES.values() if name in point]
    if not (curve and reached and false):
        return None
    figure = Figure(figsize=(1.4 + 4.1 * len(false), 4.4), dpi=130, layout="constrained")
    panels = figure.subplots(1, len(false), squeeze=False, sharey=True)[0]
    for axes, kind in zip(panels, false, strict=True):
        for name in reached:
            line = [(100 * cut[kind], 100 * cut[name]) for cut in curve]
            look = {"color": _KIND_COLORS[name], "linewidth": _WIDTHS[name]}
            axes.plot(*zip(*line, strict=True), **look, label=name)
            axes.plot([100 * point[kind]], [100 * point[name]], "o", **look, ms=5 + _WIDTHS[name])
        axes.set_xscale("symlog", linthresh=1)  # 0 must be on it
        axes.set(xlim=(-0.1, 110), xlabel=f"{kind} that reach an edit, %")
        axes.xaxis.set_major_formatter("{x:g}")
        tidy(axes, grid="y")
    panels[0].set(ylim=(-3, 103), ylabel="reach their edit, %")
    figure.suptitle(title)
    value = "" if threshold is None else f", {threshold:.3g}"
    name = f"the store's threshold{value}"
    panels[-1].plot([], [], "o", color=_INK, ms=8, label=name)  # an entry of the legend
    handles, labels = panels[-1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return figure


def routes_figure(outcomes: Outcomes, title: str) -> Figure | None:
    """The confusion matrix of routes: kinds of probes by route, as counts and shares of the kind.
    The cell of the correct route has a frame. None if nothing was probed."""
    table = route_table(outcomes)
    if not table:
        return None
    figure, axes = new_figure(1.6 + 0.6 * len(table))
    shares = [[float(line[f"{route} share"]) for route in ROUTES] for line in table]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for y, line in enumerate(table):
        for x, route in enumerate(ROUTES):
            label = f"{line[route]:,}  ({100 * shares[y][x]:.1f} %)"
            color = "white" if shares[y][x] > 0.5 else _INK
            axes.text(x, y, label, ha="center", va="center", color=color, fontsize=9)
        right = ROUTES.index("base" if line["probes"] in NEGATIVES.values() else "own edit")
        frame = Rectangle((right - 0.48, y - 0.45), 0.96, 0.9, fill=False, ec=ORANGE, lw=1.6)
        axes.add_patch(frame)
    axes.set_xticks(range(len(ROUTES)), ROUTES)
    names = [f"{str(line['probes'])[:_LONGEST_NAME]} ({line['asked']:,})" for line in table]
    axes.set_yticks(range(len(table)), names, parse_math=False)  # names are any text
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set(title=title, xlabel="went to (framed: where it belongs)")
    return figure


def retention_by_age_figure(outcomes: Outcomes, title: str) -> Figure | None:
    """Exact answers of earlier edits by tenth of age, oldest first, and of the wave's own edits,
    labelled with counts. None if no earlier edit was asked."""
    earlier, own = by_age(outcomes), own_edits(outcomes)
    if not earlier:
        return None
    groups = [*earlier, *own]
    figure, axes = new_figure(4.0)
    colors = [BLUE] * len(earlier) + [ORANGE] * len(own)
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
