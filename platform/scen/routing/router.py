"""A router: encoder, gate and threshold, as it is fitted for a base and stored with a store."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from scen.model.keys import KeyPlace
from scen.routing.encoder import KeyEncoder, fold, random_view
from scen.routing.evidence import Evidence
from scen.routing.gate import Gate
from scen.routing.threshold import conformal_threshold
from scen.routing.whitening import Whitening

NEGATIVES = ("same kind", "near miss", "made near miss", "task", "subject task")
"""Kinds of hard negatives: questions whose edit is not there, near misses given and made, tasks
about a question, and other wishes about its subject."""

_DEFAULT_WIDTH = 512


@dataclass(frozen=True)
class Router:
    """How prompts are compared with edits and from which score on an edit speaks.

    `negative_N` are the scores of the N held-out hard negatives that set `threshold`, so that
    false activation of each of their kinds (`kind_N`, see NEGATIVES) is at most `bound` (None: the
    threshold was set by hand). With `evidence` the gate also sees words, and what stands around a
    question; without, as before this was known, similarities alone.
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
        """The same router for another bound on false activation. Raises ConfigError where its
        sample is too small for it, or it was never calibrated."""
        threshold = conformal_threshold(self.negative_N, self.kind_N, bound)
        return replace(self, threshold=threshold, bound=bound)

    def after(self, projection_GF: Tensor) -> "Router":
        """The router of raw keys of G numbers, where this one takes them times `projection_GF`."""
        evidence = self.evidence and self.evidence.after(projection_GF)
        return replace(self, encoder=self.encoder.after(projection_GF), evidence=evidence)

    def cut_at(self, threshold: float) -> "Router":
        """The same router with a threshold set by hand, which promises nothing."""
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
    encoder = fold(Whitening.fit(neutral_NKF, shrinkage), places, [view])
    return Router(
        encoder,
        Gate.mean(encoder.num_views),
        threshold,
        None,
        torch.zeros(0),
        torch.zeros(0).long(),
    )
