"""Figures of a wave. Plain Figure objects: no pyplot, so no global state and no display."""

from collections.abc import Mapping
from statistics import fmean, median
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, MaxNLocator

from scen.tracking.loss_curves import Curves, finite_curves, losses_by_step

Pairs = Mapping[str, tuple[float, float]]

_BEFORE, _AFTER = "#b8bec8", "#2563a8"
_EDIT, _MEAN = "#2563a8", "#d9480f"
_LOSS_FLOOR = 1e-4  # where a logarithmic axis ends


def before_after_pairs(metrics: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """The metrics that come as `NAME_before` and `NAME_after`, by NAME, as (before, after)."""
    names = [key.removesuffix("_before") for key in metrics if key.endswith("_before")]
    return {
        name: (metrics[f"{name}_before"], metrics[f"{name}_after"])
        for name in names
        if f"{name}_after" in metrics
    }


def loss_figure(curves: Curves, title: str) -> Figure:
    """The training loss of every edit as a thin line, with the mean of the wave on top."""
    kept = [[max(loss, _LOSS_FLOOR) for loss in curve] for curve in finite_curves(curves)]
    figure = Figure(figsize=(7.2, 4.2), dpi=130, layout="constrained")
    axes = figure.subplots()
    alpha = max(0.15, min(0.7, 12 / max(len(kept), 1)))
    for curve in kept:
        axes.plot(curve, color=_EDIT, linewidth=0.8, alpha=alpha)
    axes.plot([], color=_EDIT, linewidth=0.8, label=f"one edit ({len(kept)} in all)")
    steps = losses_by_step(kept)
    axes.plot([fmean(losses) for losses in steps], color=_MEAN, linewidth=2.4, label="mean")
    axes.plot([median(losses) for losses in steps], color=_MEAN, linestyle=":", label="median")
    axes.set(title=title, xlabel="training step", ylabel="loss (log scale)", yscale="log")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.legend(frameon=False)
    tidy(axes, grid="y")
    return figure


def before_after_figure(pairs: Pairs, title: str) -> Figure:
    """Each pair as two bars. Rates (0 to 1) stand in percent, other numbers in a panel below."""
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
    for offset, color, label, which in ((-0.19, _BEFORE, "before", 0), (0.19, _AFTER, "after", 1)):
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


def tidy(axes: Axes, grid: Literal["x", "y"]) -> None:
    """The common look: no frame, a light grid behind."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color="#e3e6ea", linewidth=0.8)
    axes.set_axisbelow(True)


def _readable(name: str) -> str:
    return name.removeprefix("eval/").replace("_", " ")
