"""The plots of a report: images inside the page, each with alternative text."""

from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from io import BytesIO

import matplotlib as mpl
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from scen.evaluation.metrics import EvalReport, flatten_report, of_kind
from scen.fs import Storage
from scen.ledger.view import LogEntry
from scen.pipeline.wave_facts import WaveFacts, frequent_sources, wave_losses, wave_outcomes
from scen.report.store import StoreFacts, evaluation_outcomes
from scen.report.tables import clip, counted, number, percent
from scen.tracking.figures import (
    BLUE,
    ORANGE,
    before_after_figure,
    loss_figure,
    new_figure,
    operating_curve_figure,
    retention_by_age_figure,
    routes_figure,
    tidy,
)
from scen.tracking.summaries import (
    Outcomes,
    before_after_pairs,
    by_age,
    finite_curves,
    loss_summary,
    operating_point,
    own_edits,
    route_table,
)

MAX_SOURCES = 4  # of rephrases, in a figure or in a table on the page
_COLORS = colormaps["tab10"].colors  # type: ignore[attr-defined]
_MAX_LINES = 500  # beyond that an SVG is larger than its pixels
_CSS_DPI = 96
_WIDE = 720  # CSS pixels; a wider one takes a row of its own
_OPERATING = (
    "Routing at other thresholds: questions that would reach their edit, against those "
    "that should reach none but would. The points are the store's own threshold."
)
_RETENTION = "Prompts of earlier edits, asked again when this wave was measured."
_AGES = "All edits of that version, asked again, by their age."


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure for the page: `src` is a data URI, sizes are CSS pixels, `alt` is the alternative
    text."""

    src: str
    alt: str
    caption: str
    width: int
    height: int

    @property
    def is_wide(self) -> bool:
        """True if it takes a row of its own."""
        return self.width > _WIDE


def picture(figure: Figure, alt: str, caption: str) -> Picture:
    """A figure as SVG, or as PNG if it has very many lines. The output is deterministic."""
    lines = sum(len(axes.lines) for axes in figure.axes)
    kind, media = ("png", "image/png") if lines > _MAX_LINES else ("svg", "image/svg+xml")
    buffer = BytesIO()
    with mpl.rc_context({"svg.hashsalt": "scen"}):
        metadata = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
        figure.savefig(buffer, format=kind, metadata=metadata)
    width, height = (round(_CSS_DPI * inches) for inches in figure.get_size_inches())
    data = b64encode(buffer.getvalue()).decode()
    return Picture(f"data:{media};base64,{data}", alt, caption, width, height)


def life_picture(facts: StoreFacts) -> Picture:
    """Active edits over versions."""
    life = facts.life
    step = max(1, len(life) // 8)
    chosen = sorted({*range(0, len(life), step), len(life) - 1})
    counts = ", ".join(f"{life[version]:,} at {version}" for version in chosen)
    alt = f"Active edits by version: {counts}."
    return picture(life_figure(life, facts.commits), alt, "Active edits over versions.")


def stream_picture(facts: StoreFacts, stream: str) -> Picture:
    """The metrics of the waves of a stream, over versions."""
    waves = [wave for wave in facts.measured_waves if wave.stream == stream]
    courses = "; ".join(
        f"{name} {percent(points[0][1])} at version {points[0][0]}, {percent(points[-1][1])} at "
        f"version {points[-1][0]}"
        for name, points in quality_curves(waves).items()
    )
    caption = f"{counted(len(waves), 'wave')} of stream {stream}, each measured when it was made."
    figure = curves_figure(waves, f"Over the waves of {stream}")
    return picture(figure, f"Curves over the waves of {stream}: {courses}.", caption)


def wave_pictures(storage: Storage, wave: WaveFacts) -> Iterator[Picture]:
    """The plots of a wave. Raises NotFoundError or IntegrityError for missing or damaged files."""
    losses, name = wave_losses(storage, wave), wave.name
    figure = loss_figure(losses, f"Training loss: {name}")
    if figure is not None:
        steps = loss_summary(losses)
        first, last = (number(step["train/loss_mean"]) for step in (steps[0], steps[-1]))
        caption = (
            f"The mean loss of {len(finite_curves(losses))} edits goes from {first} to {last} in "
            f"{len(steps)} steps."
        )
        yield picture(figure, f"Loss curves. {caption}", caption)
    if wave.report is not None:
        outcomes = wave_outcomes(storage, wave)
        yield from _outcome_pictures(wave.report, outcomes, name)
        yield from _age_picture(outcomes, f"Retention by age: {name}", _RETENTION)
        yield from _threshold_picture(outcomes, name, wave.threshold)


def evaluation_pictures(storage: Storage, facts: StoreFacts) -> Iterator[Picture]:
    """The plots of the newest evaluation."""
    newest, order = facts.evaluations[-1], facts.snapshot.state.order
    outcomes = evaluation_outcomes(storage, newest.path, facts.snapshot, facts.streams)
    name = f"version {newest.version}"
    yield from _outcome_pictures(newest.report, outcomes, name)
    own = [o for o in of_kind(outcomes, "reliability") if o.probe.edit_id in order]
    own.sort(key=lambda o: order[o.probe.edit_id or ""])
    # At the end every edit is an earlier one.
    earlier = [replace(o, probe=replace(o.probe, kind="retention")) for o in own]
    yield from _age_picture(earlier, f"By age: {name}", _AGES)
    yield from _threshold_picture(outcomes, name)


def _outcome_pictures(report: EvalReport, outcomes: Outcomes, name: str) -> Iterator[Picture]:
    """Figures before and after editing, and where the probes went."""
    pairs = before_after_pairs(flatten_report(report))
    figure = before_after_figure(pairs, f"Before and after: {name}")
    if figure is not None:
        text = "; ".join(
            f"{key.removeprefix('eval/').replace('_', ' ')} {percent(old)}, then {percent(new)}"
            for key, (old, new) in pairs.items()
        )
        yield picture(figure, f"Bars: {text}.", "What the base gave, and what the edits gave.")
    figure = routes_figure(outcomes, f"Where the probes went: {name}")
    if figure is not None:
        text = "; ".join(
            f"{line['probes']}: {line['own edit']} to their own edit, {line['another edit']} to "
            f"another, {line['base']} to the base"
            for line in route_table(outcomes)
        )
        alt = f"Counts of probes by kind and route. {text}."
        yield picture(figure, alt, "Kinds of probes by where they went.")


def _threshold_picture(
    outcomes: Outcomes, name: str, threshold: float | None = None
) -> Iterator[Picture]:
    figure = operating_curve_figure(outcomes, f"Other thresholds: {name}", threshold)
    if figure is not None:
        text = ", ".join(
            f"{key} {percent(share)}" for key, share in operating_point(outcomes).items()
        )
        alt = f"Operating curve. At the store's threshold reach: {text}."
        yield picture(figure, alt, _OPERATING)


def _age_picture(outcomes: Outcomes, title: str, caption: str) -> Iterator[Picture]:
    figure = retention_by_age_figure(outcomes, title)
    if figure is not None:
        groups = [*by_age(outcomes), *own_edits(outcomes)]
        text = ", ".join(f"{group.name}: {group.exact} of {group.asked}" for group in groups)
        yield picture(figure, f"Bars by age, the oldest first: {text}.", caption)


def life_figure(life: Sequence[int], commits: Sequence[LogEntry]) -> Figure:
    """Active edits over versions; triangles mark the commits other than waves."""
    figure, axes = new_figure(3.0)
    axes.plot(range(len(life)), life, color=BLUE, drawstyle="steps-post", linewidth=2)
    axes.plot([len(life) - 1], life[-1:], "o", color=BLUE, ms=5)
    others = [entry.version for entry in commits if entry.action != "commit"]
    if others:
        counts = [life[version] for version in others]
        label = "revoke, expire, roll back, gc"
        axes.plot(others, counts, "v", color=ORANGE, ms=7, label=label)
        axes.legend(frameon=False)
    axes.set(xlabel="version of the store", ylabel="active edits", ylim=(0, 1.12 * max(life) + 1))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    tidy(axes, grid="y")
    return figure


def curves_figure(waves: Sequence[WaveFacts], title: str) -> Figure:
    """The metrics of the waves of a stream over the versions that they made, in percent, and below
    them the edits trained per second. `waves` must be measured, and at least one."""
    curves, speeds = quality_curves(waves), [wave.edits_per_second or 0.0 for wave in waves]
    figure = Figure(figsize=(7.2, 5.2), dpi=130, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    for color, marker, (name, points) in zip(_COLORS, "os^vDPX*", curves.items(), strict=False):
        versions, shares = zip(*points, strict=True)
        label = name.replace("$", r"\$")  # else it may be parsed as a formula
        values = [100 * share for share in shares]
        upper.plot(versions, values, color=color, marker=marker, ms=5, alpha=0.8, label=label)
    lowest = min(share for points in curves.values() for _, share in points)
    upper.set(title=title, ylabel="percent", ylim=(max(-3, 100 * lowest - 5), 101))
    lower.plot([wave.version for wave in waves], speeds, color=BLUE, marker="o", ms=4)
    lower.set(xlabel="version that the wave made", ylabel="edits/s trained")
    lower.set_ylim(0, 1.15 * max(speeds) + 1e-9)
    lower.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (upper, lower):
        tidy(axes, grid="y")
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


def quality_curves(waves: Sequence[WaveFacts]) -> dict[str, list[tuple[int, float]]]:
    """Points (version, share) by measure; missing measurements are left out."""
    sources = frequent_sources(waves)[:MAX_SOURCES]
    curves: dict[str, list[tuple[int, float]]] = {}
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
                curves.setdefault(name, []).append((version, share))
    return curves
