"""Figures of calibrations and benchmarks. Plain Figure objects, as in `figures`."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from scen.tracking.figures import BLUE, ORANGE, new_figure, tidy
from scen.tracking.studies import CalibrationRecord, MethodRecord

_QUALITY = {
    "reliability": "edits",
    "generality/orig": "rephrases, data set",
    "generality/template": "rephrases, templates",
    "locality/unrelated": "unrelated unchanged",
    "locality/same kind": "same kind unchanged",
    "locality/same subject": "same subject unchanged",
}
_CURVES = ("reliability", "generality/orig", "locality/unrelated", "locality/same subject")
_PERPLEXITY = "perplexity/"
_COLORS = [colormaps["tab10"](place) for place in range(10)]


def calibration_figures(record: CalibrationRecord) -> dict[str, Figure]:
    """The figures of a calibration by name."""
    base = Path(record.base_name).name
    figures = {
        "operating_curve": operating_figure(
            record.curve, record.bound, f"Routing of unseen edits: {base}"
        ),
        "efficacy_by_layer": efficacy_figure(record.trials, f"Experts by layer: {base}"),
    }
    if record.top1_by_depth:
        title = f"Keys by depth: {base}"
        figures["top1_by_depth"] = depth_figure(record.top1_by_depth, title)
    return figures


def operating_figure(
    curve: Sequence[tuple[float, float]], bound: float | None, title: str
) -> Figure:
    """Rephrases that reach their edit over hard negatives that reach any edit, in percent."""
    figure, axes = new_figure(4.6)
    shown = [(100 * false, 100 * reached) for false, reached in curve if false > 0]
    axes.plot(*zip(*shown, strict=True), color=BLUE, linewidth=2)
    if bound is not None:
        axes.axvline(100 * bound, color=ORANGE, linestyle="--", label="the bound kept")
        axes.legend(frameon=False, loc="lower right")
    axes.set(
        title=title,
        xscale="log",
        xlabel="hard negatives that reach an edit, % (log scale)",
        ylabel="rephrases that find their edit, %",
    )
    axes.xaxis.set_major_formatter("{x:g}")
    tidy(axes, grid="y")
    return figure


def depth_figure(top1_by_depth: Mapping[str, Mapping[int, float]], title: str) -> Figure:
    """The share of rephrases whose nearest edit is their own, by depth and kind of key."""
    figure, axes = new_figure(4.2)
    for kind, by_layer in top1_by_depth.items():
        is_last = kind == "last"
        label = "last prompt token" if is_last else "mean over the prompt's words"
        values = [100 * value for value in by_layer.values()]
        color = BLUE if is_last else ORANGE
        axes.plot(list(by_layer), values, color=color, marker="o", label=label)
    axes.set(title=title, xlabel="layer", ylabel="nearest edit is the right one, %")
    _finish_layers(axes)
    return figure


def efficacy_figure(trials: Sequence[Mapping[str, object]], title: str) -> Figure:
    """Exact answers of experts by layer: each trial a point, reliability and generality."""
    figure, axes = new_figure(4.2)
    for name, color in (("reliability", BLUE), ("generality", ORANGE)):
        best: dict[int, float] = {}
        for trial in trials:
            layer, value = int(str(trial["layer"])), 100 * float(str(trial[name]))
            axes.plot([layer], [value], color=color, marker=".", alpha=0.4)
            best[layer] = max(value, best.get(layer, 0.0))
        layers = sorted(best)
        label = f"{name}, best of a layer"
        axes.plot(layers, [best[i] for i in layers], color=color, marker="o", label=label)
    axes.set(title=title, xlabel="layer of the expert", ylabel="answered exactly, %")
    _finish_layers(axes)
    return figure


def _finish_layers(axes: Axes) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False)
    tidy(axes, grid="y")


def benchmark_figures(methods: Sequence[MethodRecord]) -> dict[str, Figure]:
    """The charts that the metrics allow, by name: for the largest number of edits, and curves over
    the numbers of edits if there are several."""
    most = max(method.size for method in methods)
    whole = [method for method in methods if method.size == most]
    figures: dict[str, Figure] = {}
    if any("reliability" in method.metrics for method in whole):
        figures["quality"] = quality_figure(whole)
        figures["retention"] = retention_figure(whole)
        figures["cost"] = cost_figure(whole)
    if any(name.startswith(_PERPLEXITY) for method in whole for name in method.metrics):
        figures["perplexity"] = perplexity_figure(whole)
    if len({method.size for method in methods}) > 1:
        figures["curve"] = curve_figure(methods)
    return figures


def quality_figure(methods: Sequence[MethodRecord]) -> Figure:
    """A group of bars per metric, in percent: one bar per method."""
    names = [name for name in _QUALITY if any(name in m.metrics for m in methods)]
    values = {m.method: [100 * m.metrics.get(name, 0.0) for name in names] for m in methods}
    figure, axes = new_figure(1.0 + 0.9 * len(names), width=9.6)
    _draw_groups(axes, [_QUALITY[name] for name in names], values)
    axes.set(title=f"After {methods[0].size} edits", xlabel="percent", xlim=(0, 105))
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    return figure


def perplexity_figure(methods: Sequence[MethodRecord]) -> Figure:
    """A group of bars per kind of text, on a logarithmic axis: lower is better."""
    names = sorted({n for m in methods for n in m.metrics if n.startswith(_PERPLEXITY)})
    values = {m.method: [m.metrics.get(name, 1.0) for name in names] for m in methods}
    figure, axes = new_figure(1.0 + 1.2 * len(names), width=9.6)
    _draw_groups(axes, [name.removeprefix(_PERPLEXITY) for name in names], values)
    axes.set(title=f"After {methods[0].size} edits", xlabel="perplexity (log scale)", xscale="log")
    axes.xaxis.set_major_formatter("{x:g}")
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    return figure


def retention_figure(methods: Sequence[MethodRecord]) -> Figure:
    """Edits answered exactly by tenth of the stream, oldest first; a line per method."""
    figure, axes = new_figure(4.4)
    for color, method in _colored(methods):
        shares = [100 * share for share in method.retention]
        axes.plot(range(1, len(shares) + 1), shares, color=color, marker="o", label=method.method)
    axes.set(
        title=f"By age, after {methods[0].size} edits",
        xlabel="tenth of the stream (1: the oldest edits)",
        ylabel="edits answered exactly, %",
        ylim=(-3, 103),
    )
    tidy(axes, grid="y")
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    return figure


def cost_figure(methods: Sequence[MethodRecord]) -> Figure:
    """Average quality over the seconds per edit; each point is labelled with its bytes per edit."""
    figure, axes = new_figure(4.4)
    for color, method in _colored(methods):
        seconds, average = method.metrics["seconds_per_edit"], 100 * method.metrics["average"]
        axes.plot([max(seconds, 1e-3)], [average], color=color, marker="o", linestyle="none")
        size = method.metrics["bytes_per_edit"] / 1000
        axes.annotate(
            f" {method.method} ({size:,.1f} KB)", (max(seconds, 1e-3), average), fontsize=8
        )
    axes.set(
        title="Quality and cost of an edit",
        xlabel="seconds per edit (log scale)",
        ylabel="average of reliability, generality, locality, %",
        xscale="log",
        ylim=(0, 105),
    )
    axes.margins(x=0.3)
    tidy(axes, grid="y")
    return figure


def curve_figure(methods: Sequence[MethodRecord]) -> Figure:
    """Metrics over the number of edits: a panel per metric, a line per method."""
    names = [n for n in _CURVES if any(n in m.metrics for m in methods)]
    names = names or sorted({n for m in methods for n in m.metrics if n.startswith(_PERPLEXITY)})
    figure = Figure(figsize=(3.2 * len(names), 3.8), dpi=130, layout="constrained")
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    by_method = list(dict.fromkeys(method.method for method in methods))
    factor = 1 if names[0].startswith(_PERPLEXITY) else 100
    for axes, name in zip(panels, names, strict=True):
        for color, label in zip(_COLORS, by_method, strict=False):
            mine = [m for m in methods if m.method == label and name in m.metrics]
            values = [factor * m.metrics[name] for m in mine]
            shown = label if axes is panels[0] else None
            axes.plot([m.size for m in mine], values, color=color, marker="o", label=shown)
        axes.set(title=_QUALITY.get(name, name), xlabel="edits", xscale="log")
        axes.xaxis.set_major_formatter("{x:g}")
        tidy(axes, grid="y")
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    return figure


def _draw_groups(axes: Axes, names: Sequence[str], values: dict[str, list[float]]) -> None:
    height = 0.8 / len(values)
    for place, (color, (label, numbers)) in enumerate(zip(_COLORS, values.items(), strict=False)):
        offset = (place - (len(values) - 1) / 2) * height
        rows = [row + offset for row in range(len(names))]
        bars = axes.barh(rows, numbers, height=height, color=color, label=label)
        axes.bar_label(bars, fmt="%.1f", padding=2, fontsize=6)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    tidy(axes, grid="x")


def _colored(methods: Sequence[MethodRecord]) -> Iterator[tuple[object, MethodRecord]]:
    return zip(_COLORS, methods, strict=False)
