"""Many loss curves of unequal length, summed up step by step."""

import math
from collections.abc import Sequence
from statistics import fmean, median

Curves = Sequence[Sequence[float]]


def finite_curves(curves: Curves) -> list[list[float]]:
    """The curves as far as they are finite numbers; a curve that diverges ends there."""
    kept = []
    for curve in curves:
        end = next((i for i, loss in enumerate(curve) if not math.isfinite(loss)), len(curve))
        kept.append([float(loss) for loss in curve[:end]])
    return [curve for curve in kept if curve]


def losses_by_step(curves: list[list[float]]) -> list[list[float]]:
    """The losses of all edits at each step.

    An edit that stopped early keeps its last loss: without it the mean would rise at the end,
    where only the hard edits are still training.
    """
    num_steps = max((len(curve) for curve in curves), default=0)
    return [[curve[min(step, len(curve) - 1)] for curve in curves] for step in range(num_steps)]


def loss_summary(curves: Curves) -> list[dict[str, float]]:
    """Mean, median and largest training loss of a wave at each step, as named metrics."""
    return [
        {
            "train/loss_mean": fmean(losses),
            "train/loss_median": median(losses),
            "train/loss_max": max(losses),
        }
        for losses in losses_by_step(finite_curves(curves))
    ]
