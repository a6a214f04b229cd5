"""Figures of a store over its versions. Plain Figure objects, as in `scen.tracking.figures`."""

from collections import Counter
from collections.abc import Sequence

from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from scen.ledger.log import LogEntry
from scen.report.markup import clip
from scen.report.read_waves import WaveFacts
from scen.tracking.figures import tidy

MOST_SOURCES = 4  # of rephrases, in a figure or in a table on the page
_ACTIVE, _LESS = "#2563a8", "#d9480f"
_COLORS = colormaps["tab10"].colors  # type: ignore[attr-defined]


def life_figure(life: Sequence[int], commits: Sequence[LogEntry]) -> Figure:
    """Active edits over versions; points mark the commits that are no waves."""
    figure = Figure(figsize=(7.2, 3.0), dpi=130, layout="constrained")
    axes = figure.subplots()
    axes.plot(range(len(life)), life, color=_ACTIVE, drawstyle="steps-post", linewidth=2)
    axes.plot([len(life) - 1], life[-1:], "o", color=_ACTIVE, ms=5)
    others = [entry.version for entry in commits if entry.action != "commit"]
    if others:
        counts = [life[version] for version in others]
        label = "revoke, expire, roll back, gc"
        axes.plot(others, counts, "v", color=_LESS, ms=7, label=label)
        axes.legend(frameon=False)
    axes.set(xlabel="version of the store", ylabel="active edits", ylim=(0, 1.12 * max(life) + 1))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    tidy(axes, grid="y")
    return figure


def curves_figure(waves: Sequence[WaveFacts], title: str) -> Figure:
    """What the waves of a stream measured, over the versions that they made, in percent; below it
    the edits trained in a second. At least one wave, all of them measured."""
    curves, speeds = quality_curves(waves), [wave.edits_per_second or 0.0 for wave in waves]
    figure = Figure(figsize=(7.2, 5.2), dpi=130, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    for color, marker, (name, points) in zip(_COLORS, "os^vDPX*", curves.items(), strict=False):
        versions, shares = zip(*points, strict=True)
        label = name.replace("$", r"\$")  # else it may be taken for mathematics
        values = [100 * share for share in shares]
        upper.plot(versions, values, color=color, marker=marker, ms=5, alpha=0.8, label=label)
    lowest = min(share for points in curves.values() for _, share in points)
    upper.set(title=title, ylabel="percent", ylim=(max(-3, 100 * lowest - 5), 101))
    lower.plot([wave.version for wave in waves], speeds, color=_ACTIVE, marker="o", ms=4)
    lower.set(xlabel="version that the wave made", ylabel="edits/s trained")
    lower.set_ylim(0, 1.15 * max(speeds) + 1e-9)
    lower.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (upper, lower):
        tidy(axes, grid="y")
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


def quality_curves(waves: Sequence[WaveFacts]) -> dict[str, list[tuple[int, float]]]:
    """(version, share) of each measure, as far as it was measured."""
    sources = frequent_sources(waves)[:MOST_SOURCES]
    found: dict[str, list[tuple[int, float]]] = {}
    for wave in waves:
        report, version = wave.report, wave.version
        if report is None or version is None:
            continue
        shares = {
            "edits exact": report.reliability,
            **{f"rephrases ({clip(s, 24)}) exact": report.generality.get(s) for s in sources},
            "unrelated unchanged": report.locality_unchanged,
            "near misses unchanged": report.near_miss_unchanged,
            "earlier edits exact": report.retention,
        }
        for name, share in shares.items():
            if share is not None:
                found.setdefault(name, []).append((version, share))
    return found


def frequent_sources(waves: Sequence[WaveFacts]) -> list[str]:
    """Where the wordings of rephrases come from, the most frequent first."""
    counts: Counter[str] = Counter()
    for wave in waves:
        for source in wave.report.generality if wave.report else ():
            counts[source] += wave.report.counts[f"generality_{source}"] if wave.report else 0
    return [source for source, _ in counts.most_common()]
