"""Search keys of as many edits as are wanted, drawn like those of real edits, with queries.

Suffixes: N neurons or prompts, E real edits, B queries, D numbers of a search key.

A synthetic neuron is a mix of two or three real keys plus noise of the real covariance. A query is
a synthetic neuron with a real paraphrase's displacement: with the same cosine to its neuron that
the real paraphrase has to its edit, and the same direction away from it. Others are unrelated.
`compare` tells how real that is: cosines, as quantiles, of real and of as many synthetic keys.
"""

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from scen.calibration.fit_encoder import EncoderPlan, RouterKeys, fit_encoder
from scen.calibration.router_set import build_router_set
from scen.data import Validator, ingest
from scen.data.read import read_prompts
from scen.model.base import Base
from scen.model.keys import KeyPlace
from scen.records import Edit
from scen.routing.keys import KeyEncoder, read_prompt_keys
from scen.samples import sample_path
from scen.snapshot.method import find_profile

PLACES = (KeyPlace(6, "mean"), KeyPlace(12, "last"), KeyPlace(18, "last"), KeyPlace(24, "last"))
HELD_OUT = 200  # ZsRE edits that make the keys, by default
QUANTILES = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99)
_CHUNK = 50_000


@dataclass(frozen=True)
class RealKeys:
    """Search keys of real edits, of a paraphrase of each, and of unrelated questions."""

    edit_ED: Tensor
    paraphrase_ED: Tensor
    stranger_ND: Tensor

    @property
    def width(self) -> int:
        """D."""
        return self.edit_ED.shape[1]


def read_encoder(base: Base, held_out: int) -> KeyEncoder:
    """The one that ships for the base, or one fitted on as many ZsRE edits behind those that are
    held out."""
    profile = find_profile("auto", base)
    if profile is not None:
        return profile.router.encoder
    edits = _edits("zsre_edits.jsonl", 2 * held_out)[held_out:]
    about = build_router_set(edits, read_prompts(sample_path("nq_neutral.jsonl"), 200))
    keys = RouterKeys(about, PLACES, read_prompt_keys(base, PLACES, about.texts))
    return fit_encoder(keys, torch.ones(len(edits), dtype=torch.bool), EncoderPlan())


def read_real_keys(base: Base, count: int) -> RealKeys:
    """Search keys of the first `count` ZsRE edits of the samples, and of half as many CounterFact
    edits and unrelated questions."""
    half = count // 2
    edits = _edits("zsre_edits.jsonl", count) + _edits("counterfact_edits.jsonl", half)
    encoder = read_encoder(base, count)

    def compact(prompts: list[str]) -> Tensor:
        return encoder.search_key(encoder(read_prompt_keys(base, encoder.places, prompts)))

    return RealKeys(
        compact([edit.prompt for edit in edits]),
        compact([edit.rephrases[0].text for edit in edits]),
        compact(read_prompts(sample_path("nq_locality.jsonl"), half)),
    )


def draw_neurons(real: RealKeys, count: int, draw: torch.Generator) -> Tensor:
    """key_ND of so many synthetic neurons."""
    width = real.width
    covariance_DD = torch.cov(real.edit_ED.T) + 1e-6 * torch.eye(width)
    root_DD = torch.linalg.cholesky(covariance_DD)
    key_ND = torch.empty(count, width)
    for part in key_ND.split(_CHUNK):
        parents = torch.randint(len(real.edit_ED), (len(part), 3), generator=draw)
        weight = torch.rand(len(part), 3, generator=draw)
        weight[:, 2] *= torch.rand(len(part), generator=draw) < 0.5
        mix = (real.edit_ED[parents] * (weight / weight.sum(1, keepdim=True))[:, :, None]).sum(1)
        size = 0.4 + 0.6 * torch.rand(len(part), 1, generator=draw)
        noise = torch.randn(len(part), width, generator=draw) @ root_DD.T
        part.copy_(normalize(mix + size * noise, dim=1))
    return key_ND


def draw_queries(
    real: RealKeys, key_ND: Tensor, count: int, draw: torch.Generator
) -> tuple[Tensor, Tensor]:
    """query_BD near chosen neurons, and which ones those are."""
    own_B = torch.randint(len(key_ND), (count,), generator=draw)
    pair_B = torch.randint(len(real.edit_ED), (count,), generator=draw)
    edit_BD, paraphrase_BD = real.edit_ED[pair_B], real.paraphrase_ED[pair_B]
    cosine_B1 = (edit_BD * paraphrase_BD).sum(1, keepdim=True)
    away_BD = paraphrase_BD - cosine_B1 * edit_BD
    return normalize(cosine_B1 * key_ND[own_B] + away_BD, dim=1), own_B


def compare(real: RealKeys, draw: torch.Generator) -> dict[str, list[float]]:
    """Quantiles of cosines: to the nearest other edit, to the own paraphrase, of strangers."""
    key_ND = draw_neurons(real, len(real.edit_ED), draw)
    query_BD, own_B = draw_queries(real, key_ND, 4 * len(key_ND), draw)
    return {
        "nearest_real": _quantiles(_nearest_other(real.edit_ED)),
        "nearest_synthetic": _quantiles(_nearest_other(key_ND)),
        "paraphrase_real": _quantiles((real.edit_ED * real.paraphrase_ED).sum(1)),
        "paraphrase_synthetic": _quantiles((key_ND[own_B] * query_BD).sum(1)),
        "stranger_real": _quantiles((real.stranger_ND @ real.edit_ED.T).amax(1)),
        "stranger_synthetic": _quantiles((real.stranger_ND @ key_ND.T).amax(1)),
    }


def _edits(name: str, count: int) -> list[Edit]:
    """The first edits of a sample that have a rephrase."""
    batches = ingest(sample_path(name), Validator())
    found = (edit for batch in batches for edit in batch.edits if edit.rephrases)
    return list(itertools.islice(found, count))


def _nearest_other(key_ND: Tensor) -> Tensor:
    """The largest cosine of each key to another."""
    return (key_ND @ key_ND.T).fill_diagonal_(-1).amax(1)


def _quantiles(cosine_N: Tensor) -> list[float]:
    """The values at `QUANTILES`, rounded."""
    return [round(value, 3) for value in cosine_N.quantile(torch.tensor(QUANTILES)).tolist()]
