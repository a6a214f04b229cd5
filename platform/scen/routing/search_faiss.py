"""Nearest keys by an index of faiss: some rows are never looked at. An optional dependency.

Suffixes: B queries, N rows of keys, D numbers of a key, C candidates, K results.
"""

import importlib
import importlib.util
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from scen.routing.growing_rows import UNIT
from scen.routing.key_bank import Keys
from scen.routing.search import Int8Search, best_of, pad_results, top_stable

_CHUNK = 65536  # rows that are unpacked at a time
_SAMPLES = 48  # rows per list from which the lists are learned


@dataclass(frozen=True)
class Recipe:
    """A kind of index: faiss's own `factory` string, how much of it a query visits (`probes`:
    lists, or efSearch of a graph), and how many `candidates` are scored again with whole keys."""

    factory: str
    probes: int
    candidates: int


@dataclass(frozen=True)
class FaissSearch:
    """An index over the first `units` units of keys; the rows behind them are searched exactly.

    `selector` holds the bits of rows that are alive, where some are not.
    """

    keys: Keys
    recipe: Recipe
    index: Any
    units: int
    selector: Any

    @classmethod
    def build(cls, keys: Keys, recipe: Recipe) -> "FaissSearch":
        """Learns and fills an index: minutes for a million keys on few cores."""
        faiss = load_faiss()
        units = keys.count // UNIT
        index = faiss.index_factory(keys.width, recipe.factory, faiss.METRIC_INNER_PRODUCT)
        index.train(_sample(keys, units * UNIT, _SAMPLES * getattr(index, "nlist", 1024)))
        for begin in range(0, units * UNIT, _CHUNK):
            index.add(keys.dequantise(begin, min(begin + _CHUNK, units * UNIT)).numpy())
        return cls(keys, recipe, index, units, None).renewed(keys)

    def renewed(self, keys: Keys) -> "FaissSearch":
        """The same index for a later view of the same bank."""
        alive_N = keys.alive_N[: self.units * UNIT]
        selector = None if bool(alive_N.all()) else _alive_selector(alive_N)
        return replace(self, keys=keys, selector=selector)

    def search(self, query_BD: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """As in `Search`, among the candidates."""
        covered = self.units * UNIT
        count = min(max(k, self.recipe.candidates), covered)
        found_BC = self.index.search(query_BD.numpy(), count, params=self._visit())[1]
        index_BC = torch.from_numpy(found_BC).sort(1).values
        score_BK, index_BK = best_of(self.keys, query_BD, index_BC, k)
        late_BK, place_BK = Int8Search(self.keys.from_unit(self.units)).search(query_BD, k)
        score_BC = torch.cat([score_BK, late_BK], 1)
        index_BC = torch.cat([index_BK, place_BK + covered], 1)
        score_BK, place_BK = top_stable(score_BC, k)
        return pad_results(score_BK, index_BC.gather(1, place_BK), k)

    def _visit(self) -> Any:
        """How much of the index a query visits, as faiss wants to be told."""
        faiss = load_faiss()
        if isinstance(self.index, faiss.IndexHNSW):
            return faiss.SearchParametersHNSW(efSearch=self.recipe.probes, sel=self.selector)
        return faiss.SearchParametersIVF(nprobe=self.recipe.probes, sel=self.selector)


def has_faiss() -> bool:
    """True where faiss is installed."""
    return importlib.util.find_spec("faiss") is not None


def load_faiss() -> Any:
    """The module faiss, which has no types; imported where it is first used."""
    return importlib.import_module("faiss")


def _sample(keys: Keys, rows: int, wanted: int) -> Any:
    """About so many of the first rows, evenly spread, as a float32 array."""
    step = max(1, rows // wanted)
    return (keys.code_ND[:rows:step] * keys.scale_N[:rows:step, None]).numpy()


def _alive_selector(alive_N: Tensor) -> Any:
    """What tells faiss which rows to leave out."""
    bit_8 = 2 ** torch.arange(8)
    packed = (alive_N.view(-1, 8) * bit_8).sum(1).to(torch.uint8).numpy()
    return load_faiss().IDSelectorBitmap(packed)
