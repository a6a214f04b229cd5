"""The threshold of a router from the scores of prompts that no edit may claim.

Split conformal prediction (Vovk et al. 2005; Angelopoulos and Bates, arXiv 2107.07511): with n
held-out scores, a further prompt of the same kind exceeds the ceil((n + 1)(1 - a))-th smallest of
them with probability at most a.
"""

import math

import torch
from torch import Tensor

from scen.errors import ConfigError


def conformal_threshold(negative_N: Tensor, kind_N: Tensor, bound: float) -> float:
    """The smallest threshold that keeps false activation of each kind of negative (int64), and
    of all together, at most `bound` (0 < bound < 1).

    A kind with too few for the bound counts among all only. Raises ConfigError where all together
    are too few.
    """
    least = _rank(0, bound)[1]
    if len(negative_N) < least:
        raise ConfigError(
            f"router.max_false_activation: {bound:g} needs at least {least} held-out hard "
            f"negatives, there are {len(negative_N)}"
        )
    groups = [negative_N, *(negative_N[kind_N == kind] for kind in kind_N.unique())]
    cuts = [
        group.sort().values[_rank(len(group), bound)[0] - 1]
        for group in groups
        if len(group) >= least
    ]
    return float(max(cuts))


def _rank(count: int, bound: float) -> tuple[int, int]:
    """Which of `count` rising scores is the threshold, and the fewest that a bound needs."""
    return math.ceil((count + 1) * (1 - bound) - 1e-9), math.ceil(1 / bound - 1 - 1e-9)


def operating_curve(positive_N: Tensor, negative_N: Tensor) -> tuple[Tensor, Tensor]:
    """(false_activation, found): the shares of negatives and positives above each threshold that
    a negative sets, the highest threshold first. A positive that goes to a wrong edit is -inf."""
    cut_N = negative_N.sort(descending=True).values
    above_N = torch.arange(len(cut_N), dtype=torch.float32) / len(cut_N)
    found_N = (positive_N[None] > cut_N[:, None]).float().mean(1)
    return above_N, found_N


def area_under_curve(positive_N: Tensor, negative_N: Tensor) -> float:
    """AUC: the chance that a positive scores above a negative (Mann and Whitney 1947)."""
    order = torch.cat([positive_N, negative_N]).argsort()
    rank_N = torch.empty(len(order))
    rank_N[order] = torch.arange(1, len(order) + 1, dtype=torch.float32)
    pos = len(positive_N)
    return float((rank_N[:pos].double().sum() - pos * (pos + 1) / 2) / (pos * len(negative_N)))
