"""The router: encoder, gate and conformal threshold, fitted to a base and saved with a store."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from scen.errors import ConfigError
from scen.model.keys import KeyPlace
from scen.routing.gate import Evidence, Gate
from scen.routing.keys import KeyEncoder, Whitening, compose_encoder, random_view

NEGATIVES = ("same kind", "near miss", "made near miss", "task", "subject task", "namesake")
"""Kinds of hard negatives: questions whose edit is absent, given and made near misses, tasks about
a question, other requests about its subject, and questions about namesakes of it."""

_DEFAULT_WIDTH = 512


@dataclass(frozen=True)
class Router:
    """How prompts are compared with edits, and the score above which an edit is routed to.

    `negative_N` are the scores of the N held-out hard negatives from which `threshold` was set, so
    that the false-positive rate on each kind of them (`kind_N`, see NEGATIVES) is at most `bound`
    (None: set by hand). With `evidence` the gate also sees words and the context of a question;
    without it, similarities only.
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
        """N, the number of held-out hard negatives behind the threshold."""
        return len(self.negative_N)

    def describe(self) -> str:
        """Places, threshold and bound, in one line."""
        places = ", ".join(place.name for place in self.encoder.places)
        promise = "no bound" if self.bound is None else f"false activation at most {self.bound:g}"
        return f"keys {places}, threshold {self.threshold:.4g} ({promise})"

    def bounded(self, bound: float) -> "Router":
        """The same router with the threshold of another bound on false positives. Raises
        ConfigError if there are too few negatives for it, or none (a router not calibrated)."""
        threshold = conformal_threshold(self.negative_N, self.kind_N, bound)
        return replace(self, threshold=threshold, bound=bound)

    def after(self, projection_GF: Tensor) -> "Router":
        """The same for raw keys of width G, with `projection_GF` folded in."""
        evidence = self.evidence and self.evidence.after(projection_GF)
        return replace(self, encoder=self.encoder.after(projection_GF), evidence=evidence)

    def cut_at(self, threshold: float) -> "Router":
        """The same router with a threshold set by hand and no bound."""
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
        """Inverse of `tensors`."""
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
    """The router of an uncalibrated base: the mean cosine of whitened keys.

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
    """The smallest threshold that keeps the false-positive rate of each kind of negative (`kind_N`
    int64), and of all together, at most `bound` (0 < bound < 1).

    Split conformal prediction (Vovk et al. 2005; Angelopoulos and Bates, arXiv 2107.07511): with n
    held-out scores, a further prompt of the same kind exceeds the ceil((n + 1)(1 - bound))-th
    smallest of them with probability at most `bound`.

    A kind with too few scores for the bound counts only among all together. Raises ConfigError if
    all together are too few.
    """
    min_count = _rank(0, bound)[1]
    if len(negative_N) < min_count:
        raise ConfigError(
            f"router.max_false_activation: {bound:g} needs at least {min_count} held-out hard "
            f"negatives, there are {len(negative_N)}"
        )
    groups = [negative_N, *(negative_N[kind_N == kind] for kind in kind_N.unique())]
    thresholds = [
        group.sort().values[_rank(len(group), bound)[0] - 1]
        for group in groups
        if len(group) >= min_count
    ]
    return float(max(thresholds))


def _rank(count: int, bound: float) -> tuple[int, int]:
    """Which of `count` ascending scores is the threshold (from 1), and the minimum count for the
    bound."""
    return math.ceil((count + 1) * (1 - bound) - 1e-9), math.ceil(1 / bound - 1 - 1e-9)


def operating_curve(positive_N: Tensor, negative_N: Tensor) -> tuple[Tensor, Tensor]:
    """(false-positive rate, recall) with each negative's score as threshold, highest first. A
    positive routed to a wrong edit has score -inf."""
    threshold_N = negative_N.sort(descending=True).values
    false_N = torch.arange(len(threshold_N), dtype=torch.float32) / len(threshold_N)
    recall_N = (positive_N[None] > threshold_N[:, None]).float().mean(1)
    return false_N, recall_N


def area_under_curve(positive_N: Tensor, negative_N: Tensor) -> float:
    """AUC: the probability that a positive scores above a negative (Mann and Whitney 1947)."""
    order = torch.cat([positive_N, negative_N]).argsort()
    rank_N = torch.empty(len(order))
    rank_N[order] = torch.arange(1, len(order) + 1, dtype=torch.float32)
    pos = len(positive_N)
    return float((rank_N[:pos].double().sum() - pos * (pos + 1) / 2) / (pos * len(negative_N)))
