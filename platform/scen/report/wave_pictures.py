"""The pictures of a measured wave, or of an evaluation, each with its words."""

from collections.abc import Iterator, Sequence

from scen.evaluation.metrics import EvalReport, flatten_report
from scen.report.markup import Markup
from scen.report.pictures import picture
from scen.report.read_probes import Rows
from scen.report.table import number, percent
from scen.tracking.figures import before_after_figure, before_after_pairs, loss_figure
from scen.tracking.loss_curves import finite_curves, loss_summary
from scen.tracking.probe_rows import by_age, operating_point, own_edits, route_table
from scen.tracking.routing_figures import (
    operating_curve_figure,
    retention_by_age_figure,
    routes_figure,
)

_OPERATING = (
    "What another threshold would have done: questions that would reach their edit, against those "
    "that should reach none and would. The points are the store's own threshold."
)


def loss_picture(losses: Sequence[Sequence[float]], name: str) -> Iterator[Markup]:
    """The training of a wave; nothing where no loss is a number."""
    if curves := finite_curves(losses):
        steps = loss_summary(losses)
        first, last = (number(step["train/loss_mean"]) for step in (steps[0], steps[-1]))
        course = f"goes from {first} to {last} in {len(steps)} steps."
        told = f"The mean loss of {len(curves)} edits {course}"
        figure = loss_figure(losses, f"Training loss: {name}")
        yield picture(figure, f"Loss curves. {told}", told)


def report_picture(report: EvalReport, name: str) -> Iterator[Markup]:
    """The figures before and after; nothing where none was measured at both times."""
    if pairs := before_after_pairs(flatten_report(report)):
        told = "; ".join(
            f"{key.removeprefix('eval/').replace('_', ' ')} {percent(old)}, then {percent(new)}"
            for key, (old, new) in pairs.items()
        )
        figure = before_after_figure(pairs, f"Before and after: {name}")
        yield picture(figure, f"Bars: {told}.", "What the base gave, and what the edits gave.")


def routes_picture(rows: Rows, name: str) -> Iterator[Markup]:
    """Where the probes went; nothing where there are none."""
    figure = routes_figure(rows, f"Where the probes went: {name}")
    if figure is not None:
        told = "; ".join(
            f"{line['probes']}: {line['own edit']} to their own edit, {line['another edit']} to "
            f"another, {line['base']} to the base"
            for line in route_table(rows)
        )
        caption = "Kinds of probes by where they went."
        yield picture(figure, f"Counts of probes by kind and route. {told}.", caption)


def threshold_picture(rows: Rows, name: str, threshold: float | None = None) -> Iterator[Markup]:
    """What other thresholds would have done; nothing where not enough was probed to tell."""
    figure = operating_curve_figure(rows, f"Other thresholds: {name}", threshold)
    if figure is not None:
        told = ", ".join(f"{key} {percent(share)}" for key, share in operating_point(rows).items())
        yield picture(
            figure, f"Operating curve. At the store's threshold reach: {told}.", _OPERATING
        )


def age_picture(rows: Rows, title: str, caption: str) -> Iterator[Markup]:
    """Exact answers of earlier edits by age; nothing where none was asked."""
    figure = retention_by_age_figure(rows, title)
    if figure is not None:
        groups = [*by_age(rows), *own_edits(rows)]
        told = ", ".join(f"{group.name}: {group.exact} of {group.asked}" for group in groups)
        yield picture(figure, f"Bars by age, the oldest first: {told}.", caption)
