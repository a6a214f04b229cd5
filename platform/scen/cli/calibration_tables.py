"""The figures of a calibration as tables for people."""

from collections.abc import Iterator

from rich.table import Table

from scen.calibration.calibrate import Calibration
from scen.calibration.places import PlaceSearch
from scen.cli.render import figures_table, percent


def calibration_tables(found: Calibration) -> Iterator[Table]:
    """Places, experts, and what the router does with edits it never saw."""
    if found.places is not None:
        yield _places(found.places)
    yield _trials(found)
    yield _kinds(found)


def _places(search: PlaceSearch) -> Table:
    table = figures_table("Where keys are read", ("keys", "rephrases found"))
    count = len(search.chosen)
    for step in search.steps:
        names = " ".join(place.name for place in step.places)
        style = "green" if len(step.places) == count else ""
        table.add_row(names, percent(step.recall), style=style)
    return table


def _trials(found: Calibration) -> Table:
    names = ("layer", "lr", "rank", "steps")
    table = figures_table(
        "Experts, each edit by its own", (*names, "edits", "rephrases", "seconds")
    )
    for trial in found.trials:
        is_chosen = all(getattr(trial, n) == found.profile.expert[n] for n in names)
        cells = [f"{getattr(trial, name):g}" for name in names]
        cells += [percent(trial.reliability), percent(trial.generality), f"{trial.seconds:.1f}"]
        table.add_row(*cells, style="green" if is_chosen else "")
    return table


def _kinds(found: Calibration) -> Table:
    columns = ("prompts", "number", "own edit", "another edit")
    auc = f"area under the curve {found.figures.auc:.3f}"
    table = figures_table(f"Routing of edits that took no part in the fit, {auc}", columns)
    for kind in found.figures.kinds:
        right = "" if kind.right is None else percent(kind.right)
        table.add_row(kind.kind, str(kind.count), right, f"{100 * kind.wrong:.2f} %")
    return table
