"""Bytes of an edit's keys against how well rephrases find it: places, widths, number types.

Suffixes: B prompts, K places, F numbers of a raw key, C of a compact key, E edits.
"""

from dataclasses import replace

import torch
from torch import Tensor

from bench.report import timed
from bench.routing_data import Material, training_keys
from bench.routing_folds import CHOSEN, Fit, Folds, Row, fit_on, split_edits, try_router
from bench.routing_places import PlacePlan, Places
from bench.routing_scores import Choose, choose_by
from scen.calibration.fit_encoder import EncoderPlan, RouterKeys
from scen.calibration.fit_gate import fit_gate, join_pairs, pair_up
from scen.calibration.fit_router import FoldPairs, RouterPlan, hard_negatives, score_folds
from scen.routing.key_bank import Codes
from scen.routing.keys import Whitening, compose_encoder
from scen.routing.neurons import CANDIDATES
from scen.routing.router import Router, conformal_threshold

_FOLDS = 5  # the first of them is the test
_SHOWN = (CHOSEN, "0.02")  # bounds
_RAW_BOUND = 0.02


def key_bytes(material: Material, name: str, places: PlacePlan, plan: RouterPlan) -> list[Row]:
    """Rows for the router's places at full, half and quarter widths and as float32, for other
    places, and for whitened raw keys at every third layer."""
    rows: list[Row] = []
    for subset in (places.router, *places.subsets):
        here, label = material.at(subset), _named(subset)
        fit = _fit(here, name, plan)
        rows += _rows(here, name, fit, (f"{label}, int8", _int8_bytes(here, name, fit.router)))
        if subset == places.router:
            size = 4 * len(subset) * sum(fit.router.encoder.widths)
            choose = choose_by_float(fit.router, here.streams[name].bank_NKF)
            rows += _rows(here, name, fit, (f"{label}, float32", size), choose)
    here = material.at(places.router)
    for part in (2, 4):
        fit = _fit(here, name, replace(plan, encoder=_narrow(plan.encoder, part)))
        label = f"{_named(places.router)}, int8, widths / {part}"
        rows += _rows(here, name, fit, (label, _int8_bytes(here, name, fit.router)))
    return rows + _raw_rows(material.at(places.every), name, plan)


def _named(places: Places) -> str:
    return f"{len(places)}: {' '.join(place.name for place in places)}"


def _narrow(plan: EncoderPlan, part: int) -> EncoderPlan:
    """The same with each view at a part of its width."""
    widths = {n: getattr(plan, n) // part for n in ("edit", "general", "subject", "relation")}
    return replace(plan, **widths)


def _fit(material: Material, name: str, plan: RouterPlan) -> Fit:
    return fit_on(material, [(name, split_edits(material, name, 0, _FOLDS)[0])], plan)


def _int8_bytes(material: Material, name: str, router: Router) -> int:
    """Bytes per edit as the platform stores them."""
    code_EKC = router.encoder(material.streams[name].bank_NKF[:1])
    return Codes.of(code_EKC, router.encoder.widths).bytes_per_edit


def _rows(
    material: Material, name: str, fit: Fit, what: tuple[str, int], choose: Choose | None = None
) -> list[Row]:
    """`what` is what is stored, and its bytes per edit."""
    inside = split_edits(material, name, 0, _FOLDS)[1]
    chosen = choose or choose_by(fit.router, material.streams[name].bank_NKF)
    trial = try_router(material, name, fit.router, inside, chosen)
    labels: Row = {"data": name, "router": what[0], "bytes_per_edit": what[1]}
    labels["bank"] = len(material.streams[name].edits)
    return [row for row in Folds([trial], [fit]).rows(labels) if row["bound"] in _SHOWN]


def choose_by_float(router: Router, bank_NKF: Tensor) -> Choose:
    """As the platform chooses, but with compact keys that were never rounded to 8 bits."""
    encoder, width = router.encoder, router.encoder.widths[0]
    code_EKC = encoder(bank_NKF)
    search_ED = code_EKC[..., :width].flatten(1)

    def choose(key_BKF: Tensor) -> tuple[Tensor, Tensor]:
        code_BKC = encoder(key_BKF)
        near_BE = code_BKC[..., :width].flatten(1) @ search_ED.T
        index_BE = near_BE.topk(min(CANDIDATES, len(code_EKC)), 1).indices
        best = router.gate(encoder.compare(code_BKC, code_EKC[index_BE])).max(1)
        return best.values, index_BE.gather(1, best.indices[:, None])[:, 0]

    return choose


def _raw_rows(material: Material, name: str, plan: RouterPlan) -> list[Row]:
    """A gate over the cosines of whole whitened keys; what is stored are raw keys as float16."""
    outside = split_edits(material, name, 0, _FOLDS)[0]
    keys = training_keys(material, [(name, outside)])
    router, seconds = timed(lambda: _fit_raw(keys, plan))
    places, width_F = keys.key_NKF.shape[1:]
    choose = choose_by_float(router, material.streams[name].bank_NKF)
    what = (f"{places} raw keys, whitened, float16", 2 * places * width_F)
    return _rows(material, name, Fit(router, len(outside), seconds), what, choose)


def _fit_raw(keys: RouterKeys, plan: RouterPlan) -> Router:
    """The encoder only whitens, so it knows no edits; gate and threshold are cross-fitted."""
    places, width_F = keys.key_NKF.shape[1:]
    whitening = Whitening.fit(keys.key_NKF, plan.encoder.shrinkage)
    encoder = compose_encoder(whitening, keys.places, [torch.eye(width_F).repeat(places, 1, 1)])
    part_N = torch.where(keys.edit_N >= 0, keys.edit_N % plan.folds, -1)
    rows = [((part_N == part) | (part_N < 0)).nonzero().squeeze(1) for part in range(plan.folds)]
    folds = FoldPairs(tuple(pair_up(keys, encoder, None, some).gate for some in rows), tuple(rows))
    negative_N, kind_N = hard_negatives(keys, score_folds(folds, plan))
    threshold = conformal_threshold(negative_N, kind_N, _RAW_BOUND)
    gate = fit_gate(join_pairs(folds.pairs), plan.gate_steps, plan.seed)
    return Router(encoder, gate, threshold, _RAW_BOUND, negative_N, kind_N)
