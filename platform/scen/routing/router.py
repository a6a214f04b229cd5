"""A router: encoder, gate and conformal threshold, fitted for a base and stored with a store."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from scen.errors import ConfigError
from scen.model.keys import KeyPlace
from scen.routing.gate import Evidence, Gate
from scen.routing.keys import KeyEncoder, Whitening, compose_encoder, random_view

NEGATIVES = ("same kind", "near miss", "made near miss", "task", "subject task")
"""Kinds of hard negatives: questions whose edit is absent, near misses given and made, tasks about
a question, and other requests about its subject."""

_DEFAULT_WIDTH = 512


@dataclass(frozen=True)
class Router:
    """How prompts are compared with edits, and the score above which an edit is routed to.

    `negative_N` are the scores of the N held-out hard negatives that set `threshold`, so that
    the false-positive rate of each of their kinds (`kind_N`, see NEGATIVES) is at most `bound`
    (None: the threshold was set by hand). With `evidence` the gate also sees words and the
    context of a question, without it similarities alone.
    """

    encoder: KeyEncoder
    gate: Gate
    threshold: float
    bound: float | None
    negative_N: Tensor
    kind_N: Tensor
    evidence: Evidence | None = None

    @property
    def sample_size(self) -> int:
        """N, the held-out hard negatives behind the threshold."""
        return len(self.negative_N)

    def describe(self) -> str:
        """Places, threshold and bound in a few words."""
        places = ", ".join(place.name for place in self.encoder.places)
        promise = "no bound" if self.bound is None else f"false activation at most {self.bound:g}"
        return f"keys {places}, threshold {self.threshold:.4g} ({promise})"

    def bounded(self, bound: float) -> "Router":
        """The same router for another bound on false positives. Raises ConfigError where its
        sample is too small for it, or it was never calibrated."""
        threshold = conformal_threshold(self.negative_N, self.kind_N, bound)
        return replace(self, threshold=threshold, bound=bound)

    def after(self, projection_GF: Tensor) -> "Router":
        """The router of raw keys of G numbers, where this one takes them times `projection_GF`."""
        evidence = self.evidence and self.evidence.after(projection_GF)
        return replace(self, encoder=self.encoder.after(projection_GF), evidence=evidence)

    def cut_at(self, threshold: float) -> "Router":
        """The same router with a threshold set by hand, without a bound."""
        return replace(self, threshold=threshold, bound=None)

    def tensors(self) -> dict[str, Tensor]:
        """The router as named tensors."""
        parts = {"encoder": self.encoder.tensors(), "gate": self.gate.tensors()}
        if self.evidence is not None:
            parts["evidence"] = self.evidence.tensors()
        named = {f"{part}.{n}": t for part, tensors in parts.items() for n, t in tensors.items()}
        bound = float("nan") if self.bound is None else self.bound
        cut = torch.tensor([self.threshold, bound], dtype=torch.float64)
        return named | {"threshold": cut, "negatives": self.negative_N, "kinds": self.kind_N}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> "Router":
        """The router that `tensors` described."""
        parts: dict[str, dict[str, Tensor]] = {"encoder": {}, "gate": {}, "evidence": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            if rest:
                parts[part][rest] = tensor
        threshold, bound = tensors["threshold"].tolist()
        return cls(
            KeyEncoder.from_tensors(parts["encoder"]),
            Gate.from_tensors(parts["gate"]),
            threshold,
            bound if bound == bound else None,
            tensors["negatives"],
            tensors["kinds"],
            Evidence.from_tensors(parts["evidence"]) if parts["evidence"] else None,
        )


def plain_router(
    places: tuple[KeyPlace, ...], neutral_NKF: Tensor, shrinkage: float, threshold: float
) -> Router:
    """The router of a base that was not calibrated: the mean cosine of whitened keys.

    `neutral_NKF` are the raw keys of unrelated prompts.
    """
    width_F = neutral_NKF.shape[-1]
    view = random_view(len(places), width_F, min(_DEFAULT_WIDTH, width_F), seed=0)
    if width_F <= _DEFAULT_WIDTH:  # nothing to save
        view = torch.eye(width_F).repeat(len(places), 1, 1)
    encoder = compose_encoder(Whitening.fit(neutral_NKF, shrinkage), places, [view])
    return Router(
        encoder,
        Gate.mean(encoder.num_views),
        threshold,
        None,
        torch.zeros(0),
        torch.zeros(0).long(),
    )


def conformal_threshold(negative_N: Tensor, kind_N: Tensor, bound: float) -> float:
    """The smallest threshold at which the false-positive rate of each kind of negative (int64),
    and of all together, is at most `bound` (0 < bound < 1).

    Split conformal prediction (Vovk et al. 2005; Angelopoulos and Bates, arXiv 2107.07511): with n
    held-out scores, a further prompt of the same kind exceeds the ceil((n + 1)(1 - bound))-th
    smallest of them with probability at most `bound`.

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
    """(false-positive rate, recall) at each threshold set by a negative, the highest threshold
    first. A positive that is routed to a wrong edit has score -inf."""
    cut_N = negative_N.sort(descending=True).values
    above_N = torch.arange(len(cut_N), dtype=torch.float32) / len(cut_N)
    recall_N = (positive_N[None] > cut_N[:, None]).float().mean(1)
    return above_N, recall_N


def area_under_curve(positive_N: Tensor, negative_N: Tensor) -> float:
    """AUC: the chance that a positive scores above a negative (Mann and Whitney 1947)."""
    order = torch.cat([positive_N, negative_N]).argsort()
    rank_N = torch.empty(len(order))
    rank_N[order] = torch.arange(1, len(order) + 1, dtype=torch.float32)
    pos = len(positive_N)
    return float((rank_N[:pos].double().sum() - pos * (pos + 1) / 2) / (pos * len(negative_N)))
