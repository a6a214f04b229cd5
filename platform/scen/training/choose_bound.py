"""How much false activation is worth how many rephrases, where nobody has said."""

from torch import Tensor

from scen.errors import ConfigError
from scen.routing.threshold import conformal_threshold

BOUNDS = (0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05)
_WORTH = 0.02  # of the rephrases that the loosest bound finds may be given up for a stricter one


def choose_bound(own_N: Tensor, negative_N: Tensor, kind_N: Tensor) -> float:
    """The strictest of BOUNDS that gives up at most two points of what the loosest finds.

    `own_N` are held-out scores of rephrases (-inf: a wrong edit), the others as in
    `conformal_threshold`. Raises ConfigError where there are too few negatives for any.
    """
    found: dict[float, float] = {}
    for bound in BOUNDS:
        try:
            threshold = conformal_threshold(negative_N, kind_N, bound)
        except ConfigError:
            continue  # too few negatives for this one
        found[bound] = float((own_N > threshold).float().mean())
    if not found:
        conformal_threshold(negative_N, kind_N, BOUNDS[-1])  # says what is missing
    enough = found[max(found)] - _WORTH
    return min(bound for bound, share in found.items() if share >= enough)
