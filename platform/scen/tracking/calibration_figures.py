"""Figures of a calibration. Plain Figure objects, as in `figures`."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from scen.tracking.figures import tidy

_COLORS = {"last": "#2563a8", "mean": "#d9480f"}


def operating_figure(
    curve: Sequence[tuple[float, float]], bound: float | None, title: str
) -> Figure:
    """Rephrases that find their edit against false activation of hard negatives, in percent."""
    figure = Figure(figsize=(7.2, 4.6), dpi=130, layout="constrained")
    axes = figure.subplots()
    shown = [(100 * false, 100 * found) for false, found in curve if false > 0]
    axes.plot(*zip(*shown, strict=True), color=_COLORS["last"], linewidth=2)
    if bound is not None:
        axes.axvline(100 * bound, color=_COLORS["mean"], linestyle="--", label="the bound kept")
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
    figure = Figure(figsize=(7.2, 4.2), dpi=130, layout="constrained")
    axes = figure.subplots()
    for kind, by_layer in top1_by_depth.items():
        label = "last prompt token" if kind == "last" else "mean over the prompt's words"
        values = [100 * value for value in by_layer.values()]
        axes.plot(
            list(by_layer),
            values,
            color=_COLORS["last" if kind == "last" else "mean"],
            marker="o",
            label=label,
        )
    axes.set(title=title, xlabel="layer", ylabel="nearest edit is the right one, %")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False)
    tidy(axes, grid="y")
    return figure


def efficacy_figure(trials: Sequence[Mapping[str, object]], title: str) -> Figure:
    """Exact answers of experts by layer: each trial a point, reliability and generality."""
    figure = Figure(figsize=(7.2, 4.2), dpi=130, layout="constrained")
    axes = figure.subplots()
    for name, color in zip(("reliability", "generality"), _COLORS.values(), strict=True):
        best: dict[int, float] = {}
        for trial in trials:
            layer, value = int(str(trial["layer"])), 100 * float(str(trial[name]))
            axes.plot([layer], [value], color=color, marker=".", alpha=0.4)
            best[layer] = max(value, best.get(layer, 0.0))
        layers = sorted(best)
        label = f"{name}, best of a layer"
        axes.plot(layers, [best[i] for i in layers], color=color, marker="o", label=label)
    axes.set(title=title, xlabel="layer of the expert", ylabel="answered exactly, %")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False)
    tidy(axes, grid="y")
    return figure
