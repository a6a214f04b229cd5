"""Routers fitted on some edits and tested on others: outer folds, transfer between data sets."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.report import timed
from bench.routing_data import Material, training_keys
from bench.routing_scores import Choose, Trial, choose_by, mean_of_trials, pooled, score_prompts
from scen.calibration.fit_router import BOUNDS, RouterPlan, fit_router
from scen.routing.router import Router

CHOSEN = "chosen"  # the bound that calibration settles on
Row = dict[str, object]


@dataclass(frozen=True)
class Fit:
    """A router that was fitted on `edits` edits, in so many seconds."""

    router: Router
    edits: int
    seconds: float


@dataclass
class Folds:
    """The trials of one row of the table, and their fits."""

    trials: list[Trial] = field(default_factory=list)
    fits: list[Fit] = field(default_factory=list)

    def rows(self, labels: Row) -> list[Row]:
        """A row per bound, pooled and, of several routers, as the mean over them."""
        bounds = [fit.router.bound or 0.0 for fit in self.fits]
        facts: Row = {
            "chosen_bound": sum(bounds) / len(bounds),
            "fitted_on": sum(fit.edits for fit in self.fits) / len(self.fits),
            "fit_seconds": sum(fit.seconds for fit in self.fits) / len(self.fits),
            "hard_negatives": sum(f.router.sample_size for f in self.fits) / len(self.fits),
        }
        found: list[Row] = []
        for bound in self.trials[0].thresholds:
            ways = {"pooled": pooled} | ({"mean": mean_of_trials} if len(self.trials) > 1 else {})
            for way, figures in ways.items():
                found.append(labels | {"bound": bound, "over": way} | figures(self.trials, bound)
                             | facts)  # fmt: skip
        return found


def fit_on(material: Material, parts: Sequence[tuple[str, Sequence[int]]], plan: RouterPlan) -> Fit:
    """A router from these edits of these streams."""
    keys = training_keys(material, parts)
    (router, _), seconds = timed(lambda: fit_router(keys, plan))
    return Fit(router, keys.about.num_edits, seconds)


def try_router(
    material: Material,
    name: str,
    router: Router,
    tested: Sequence[int] | None = None,
    choose: Choose | None = None,
) -> Trial:
    """A router over the bank of a stream, at the bounds that its sample allows. `choose` takes the
    place of the platform's own way."""
    chosen = choose or choose_by(router, material.streams[name].bank_NKF)
    scored = score_prompts(material, name, chosen, tested)
    least = 1 / (router.sample_size + 1)
    cuts = {f"{b:g}": router.bounded(b).threshold for b in BOUNDS if b >= least}
    return Trial(scored, {CHOSEN: router.threshold} | cuts)


def outer_folds(
    material: Material, names: Sequence[str], count: int, plan: RouterPlan
) -> dict[str, Folds]:
    """Routers fitted on the edits of all these streams that are outside a fold, tested on the edits
    inside it; the results by stream."""
    found = {name: Folds() for name in names}
    for fold in range(count):
        rest = [(n, split_edits(material, n, fold, count)[0]) for n in names]
        fit = fit_on(material, rest, plan)
        for name, folds in found.items():
            inside = split_edits(material, name, fold, count)[1]
            folds.trials.append(try_router(material, name, fit.router, inside))
            folds.fits.append(fit)
    return found


def split_edits(
    material: Material, name: str, fold: int, count: int
) -> tuple[list[int], list[int]]:
    """The edits outside and inside a fold."""
    edits = range(len(material.streams[name].edits))
    return [e for e in edits if e % count != fold], [e for e in edits if e % count == fold]


def own_kind(material: Material, name: str, count: int, plan: RouterPlan) -> list[Row]:
    """Fitted on other edits of the same data set."""
    folds = outer_folds(material, [name], count, plan)[name]
    return folds.rows(_labels(material, name, f"fitted on {name}"))


def transfer(material: Material, count: int, plan: RouterPlan) -> list[Row]:
    """Fitted on all edits of one data set and tested on the other; fitted on both."""
    rows: list[Row] = []
    for name, stream in material.streams.items():
        fit = fit_on(material, [(name, range(len(stream.edits)))], plan)
        for other in material.streams.keys() - {name}:
            trial = try_router(material, other, fit.router)
            rows += Folds([trial], [fit]).rows(_labels(material, other, f"fitted on {name}"))
    for name, folds in outer_folds(material, list(material.streams), count, plan).items():
        rows += folds.rows(_labels(material, name, "fitted on both"))
    return rows


def _labels(material: Material, name: str, router: str) -> Row:
    return {"data": name, "router": router, "bank": len(material.streams[name].edits)}
