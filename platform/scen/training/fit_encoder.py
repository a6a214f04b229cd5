"""Fits the encoder of a router: whitening, and the views that tell edits, subjects and questions
apart.

Suffixes: N prompts, K places, F numbers of a raw key, V similarities, E candidate edits.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from scen.editor.keys import KeyPlace
from scen.routing.encoder import SEARCH_WIDTH, KeyEncoder, fold, random_view
from scen.routing.whitening import Whitening
from scen.training.discriminant import fit_view
from scen.training.fit_gate import GatePairs
from scen.training.router_set import RouterSet

CANDIDATES = 24  # per prompt, on which the gate is fitted
_CLASSES = {"prompt": 0, "rephrase": 0, "near_miss": 1, "made_near_miss": 2, "unrelated": 3}


@dataclass(frozen=True)
class EncoderPlan:
    """Widths of the views at each place, and the floor of the whitening. The edit view comes first:
    candidates are found by it."""

    edit: int = 128
    general: int = 256
    subject: int = 64
    relation: int = 64
    shrinkage: float = 0.1


@dataclass(frozen=True)
class RouterKeys:
    """A RouterSet with what was read of it: `key_NKF`, one row per question."""

    about: RouterSet
    places: tuple[KeyPlace, ...]
    key_NKF: Tensor

    @property
    def edit_N(self) -> Tensor:
        """The edit that each question is about, -1 for none."""
        return torch.tensor([question.edit for question in self.about.questions])

    def of(self, *kinds: str) -> Tensor:
        """Bool: the questions of these kinds."""
        return torch.tensor([question.kind in kinds for question in self.about.questions])

    def at(self, columns: list[int]) -> "RouterKeys":
        """The same at some of the places."""
        places = tuple(self.places[i] for i in columns)
        return RouterKeys(self.about, places, self.key_NKF[:, columns])


def fit_encoder(keys: RouterKeys, used_E: Tensor, plan: EncoderPlan) -> KeyEncoder:
    """The encoder from the questions about the edits that are used (bool) and unrelated ones."""
    edit_N = keys.edit_N
    used_N = torch.where(edit_N >= 0, used_E[edit_N.clamp_min(0)], True)
    whitening = Whitening.fit(keys.key_NKF[used_N], plan.shrinkage)
    asks_N = used_N & keys.of("prompt", "rephrase")
    names = torch.tensor([q.is_subject for q in keys.about.questions])
    about_N = used_N & names & (edit_N >= 0)
    relation_N = torch.tensor([*keys.about.relations, -1])[edit_N]
    places, width_F = len(keys.places), keys.key_NKF.shape[-1]
    white_NKF = whitening(keys.key_NKF)
    views = [
        _views(white_NKF[asks_N], edit_N[asks_N], plan.edit),
        random_view(places, width_F, min(plan.general, width_F), seed=0),
        _views(white_NKF[about_N], edit_N[about_N], plan.subject),
        _views(white_NKF[asks_N], relation_N[asks_N], plan.relation),
    ]
    encoder = fold(whitening, keys.places, views)
    first_NJ = encoder.first_views(encoder(keys.key_NKF[asks_N]))
    return encoder.searching_by(fit_view(first_NJ, edit_N[asks_N], SEARCH_WIDTH))


def _views(white_NKF: Tensor, class_N: Tensor, width: int) -> Tensor:
    return torch.stack([fit_view(white_NF, class_N, width) for white_NF in white_NKF.unbind(1)])


def pair_up(keys: RouterKeys, encoder: KeyEncoder, rows_N: Tensor) -> tuple[GatePairs, Tensor]:
    """These questions beside their nearest edits, own ones always among them, and
    `index_NE`, which edits those are."""
    count = keys.about.num_edits
    code_EKC = encoder(keys.key_NKF[:count])
    search_ED = encoder.search_key(code_EKC)
    sims, indices, owns = [], [], []
    for rows in rows_N.split(256):
        code_BKC = encoder(keys.key_NKF[rows])
        near_BE = encoder.search_key(code_BKC) @ search_ED.T
        index_BE = near_BE.topk(min(CANDIDATES, count), 1).indices
        own_B1 = _own(keys, rows)[:, None]
        missing_B = (own_B1 >= 0).squeeze(1) & ~(index_BE == own_B1).any(1)
        index_BE[missing_B, -1] = own_B1[missing_B, 0]
        sims.append(encoder.compare(code_BKC, code_EKC[index_BE]))
        indices.append(index_BE)
        owns.append(index_BE == own_B1)
    kinds = torch.tensor([_CLASSES[question.kind] for question in keys.about.questions])
    pairs = GatePairs(torch.cat(sims), torch.cat(owns), kinds[rows_N])
    return pairs, torch.cat(indices)


def _own(keys: RouterKeys, rows: Tensor) -> Tensor:
    """The edit that each question asks for; -1 where it must reach none."""
    return keys.edit_N[rows].masked_fill(~keys.of("prompt", "rephrase")[rows], -1)
