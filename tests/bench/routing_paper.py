"""Routers that need no calibration: the neurons of arXiv 2404.02699, and the plain router of a base
without a profile. Both have a fixed threshold; the best ones in hindsight stand beside it.

Suffixes: B prompts, F numbers of a raw key, E edits.
"""

import torch
from torch import Tensor

from bench.report import timed
from bench.routing_data import Material
from bench.routing_folds import Row
from bench.routing_scores import Choose, Trial, choose_by, hindsight, pooled, score_prompts
from scen.calibration.fit_router import BOUNDS
from scen.model.base import Base
from scen.routing.router import plain_router
from scen.training.parts import NeuronPlan, fit_neurons

PAPER = NeuronPlan(steps=20, lr=1e-4)
THETA = 0.65
PLAIN_THRESHOLD = 0.6
SHRINKAGE = 0.1


def paper_rows(material: Material, base: Base, name: str) -> list[Row]:
    """Sigmoid neurons over the one place of the material, trained on the bank in its order."""
    choose, seconds = timed(lambda: _paper_choose(material, base, name))
    labels: Row = {"data": name, "router": "paper", "fit_seconds": seconds}
    return _rows(material, name, choose, (f"theta {THETA:g}", THETA), labels)


def plain_rows(material: Material, name: str) -> list[Row]:
    """The mean cosine of whitened keys at the places of the material."""
    router, seconds = timed(
        lambda: plain_router(material.places, material.neutral_NKF, SHRINKAGE, PLAIN_THRESHOLD)
    )
    choose = choose_by(router, material.streams[name].bank_NKF)
    labels: Row = {"data": name, "router": "plain", "fit_seconds": seconds}
    return _rows(
        material, name, choose, (f"threshold {PLAIN_THRESHOLD:g}", PLAIN_THRESHOLD), labels
    )


def _paper_choose(material: Material, base: Base, name: str) -> Choose:
    """Keys are kept in half precision: of bfloat16 bases exactly, of others to three digits."""
    stream = material.streams[name]
    seeds = [base.template.encode_edit(edit).seed for edit in stream.edits]
    weight_EF = fit_neurons(stream.bank_NKF[:, 0].float(), seeds, PAPER)

    def choose(key_BKF: Tensor) -> tuple[Tensor, Tensor]:
        best = torch.sigmoid(key_BKF[:, 0].float() @ weight_EF.T).max(1)
        return best.values, best.indices

    return choose


def _rows(
    material: Material, name: str, choose: Choose, fixed: tuple[str, float], labels: Row
) -> list[Row]:
    """A row for the fixed threshold, and for each chosen on the test itself."""
    scored = score_prompts(material, name, choose)
    cuts = dict([fixed]) | hindsight(scored, BOUNDS)
    trial = Trial(scored, cuts)
    bank = {"bank": len(material.streams[name].edits), "over": "pooled"}
    return [labels | bank | {"bound": label} | pooled([trial], label) for label in cuts]
