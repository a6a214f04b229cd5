"""Nearest-key search over up to millions of edits: dense, exhaustive in 8 bits, or a faiss index.

Suffixes: B queries, N rows of keys, D dimensions of a key, G groups of rows, C candidates, K
results.
"""

import importlib
import importlib.util
import logging
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from scen.routing.key_bank import UNIT, Keys, quantise

_GROUP = 32  # rows reduced to their maximum in the first pass
_SLACK = 8  # extra groups rescored beyond K: the 8-bit first pass may misrank near ties
_BATCH = 32  # queries per product; torch's 8-bit product is slow above
_ALONE = 3  # up to this many queries are faster one by one: torch has a special case for one
_BLOCK = 4 * UNIT  # rows per product: few for the cache, many for thread synchronisation
_REFINED = 8  # queries rescored at a time, so that their dequantised candidates fit the cache


class Search(Protocol):
    """Finds the nearest keys in a view of a bank."""

    def search(self, query_BD: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """score_BK float32 (inner products, descending) and index_BK int64 (rows of the bank).

        Ties are in row order. With fewer than k alive rows the results are padded with -inf and -1.
        `query_BD` float32; k >= 1.
        """
        ...


@dataclass(frozen=True)
class DenseSearch:
    """All inner products in float32: exact, for small banks."""

    keys: Keys
    key_ND: Tensor

    @classmethod
    def build(cls, keys: Keys) -> "DenseSearch":
        """Dequantise the keys: 4 D bytes per row."""
        return cls(keys, keys.dequantise(0, keys.count))

    def search(self, query_BD: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """As in `Search`."""
        score_BN = query_BD @ self.key_ND.T
        if not all(self.keys.whole_M):
            score_BN.masked_fill_(~self.keys.alive_N[: self.keys.count], -torch.inf)
        score_BK, index_BK = top_stable(score_BN, k)
        return pad_results(score_BK, index_BK, k)


@dataclass(frozen=True)
class Int8Search:
    """All inner products in 8-bit integers, then the best few rescored with float32 queries.

    The first pass keeps the maximum of each group of rows: the k best rows are in the k best
    groups. Nothing is built, and no memory is held besides the keys.
    """

    keys: Keys

    def search(self, query_BD: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """As in `Search`."""
        if self.keys.count == 0 or len(query_BD) == 0:
            empty = query_BD.new_empty(len(query_BD), 0)
            return pad_results(empty, empty.long(), k)
        size = 1 if len(query_BD) <= _ALONE else _BATCH
        parts = [self._search_batch(part, k) for part in query_BD.split(size)]
        score_BK = torch.cat([score for score, _ in parts])
        return score_BK, torch.cat([index for _, index in parts])

    def _search_batch(self, query_BD: Tensor, k: int) -> tuple[Tensor, Tensor]:
        best_BG = self._group_maxima(quantise(query_BD)[0])
        group_BC = top_stable(best_BG, k + _SLACK)[1].sort(1).values
        index_BC = (group_BC[:, :, None] * _GROUP + torch.arange(_GROUP)).flatten(1)
        return best_of(self.keys, query_BD, index_BC, k)

    def _group_maxima(self, code_BD: Tensor) -> Tensor:
        """best_BG float32, up to a scale per query; memory is bounded by the block.

        The integers never overflow: |code| <= 127, so D may be up to 130 000.
        """
        rows = len(self.keys.code_ND)
        best_BG = torch.empty(len(code_BD), rows // _GROUP)
        for begin in range(0, rows, _BLOCK):
            block = slice(begin, min(begin + _BLOCK, rows))
            dot_NB = torch._int_mm(self.keys.code_ND[block], code_BD.T)
            score_NB = dot_NB.float().mul_(self.keys.scale_N[block, None])
            if not all(self.keys.whole_M[block.start // UNIT : block.stop // UNIT]):
                score_NB.masked_fill_(~self.keys.alive_N[block, None], -torch.inf)
            best_GB = score_NB.view(-1, _GROUP, len(code_BD)).amax(1)
            best_BG[:, block.start // _GROUP : block.stop // _GROUP] = best_GB.T
        return best_BG


def best_of(keys: Keys, query_BD: Tensor, index_BC: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k best of given rows, as in `Search`. `index_BC` ascending, -1: no row."""
    parts = zip(query_BD.split(_REFINED), index_BC.split(_REFINED), strict=True)
    score_BC = torch.cat([_rescore(keys, query, index) for query, index in parts])
    score_BK, place_BK = top_stable(score_BC, k)
    return pad_results(score_BK, index_BC.gather(1, place_BK), k)


def _rescore(keys: Keys, query_BD: Tensor, index_BC: Tensor) -> Tensor:
    """score_BC float32 of given rows; -inf for rows that are not alive.

    Summed row by row, not as a matrix product, so that equal keys get bit-identical scores.
    """
    row_BC = index_BC.clamp_min(0)
    code_BCD = keys.code_ND.index_select(0, row_BC.flatten()).view(*row_BC.shape, -1)
    score_BC = (code_BCD * query_BD[:, None]).sum(-1) * keys.scale_N[row_BC]
    return score_BC.masked_fill_(~keys.alive_N[row_BC] | (index_BC < 0), -torch.inf)


def top_stable(score_BN: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Values and indices of the k largest of each row (or all, if fewer); ties in index order."""
    k = min(k, score_BN.shape[1])
    top = score_BN.topk(min(k + 1, score_BN.shape[1]))
    if k < top.values.shape[1] and bool((top.values[:, k - 1] == top.values[:, k]).any()):
        ordered = score_BN.sort(dim=1, descending=True, stable=True)
        return ordered.values[:, :k], ordered.indices[:, :k]
    index_BK = top.indices[:, :k].sort(1).values
    score_BK, place_BK = score_BN.gather(1, index_BK).sort(dim=1, descending=True, stable=True)
    return score_BK, index_BK.gather(1, place_BK)


def pad_results(score_BC: Tensor, index_BC: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Pad to exactly k columns with -inf and -1."""
    missing = (0, k - score_BC.shape[1])
    score_BK = torch.nn.functional.pad(score_BC, missing, value=-torch.inf)
    index_BK = torch.nn.functional.pad(index_BC, missing, value=-1)
    return score_BK, index_BK.masked_fill(score_BK == -torch.inf, -1)


_CHUNK = 65536  # rows dequantised at a time
_SAMPLES = 48  # training rows per list


@dataclass(frozen=True)
class Recipe:
    """A faiss index: its `factory` string, how much of it a query visits (`probes`: nprobe of lists
    or efSearch of a graph), and how many `candidates` are rescored with full keys."""

    factory: str
    probes: int
    candidates: int


@dataclass(frozen=True)
class FaissSearch:
    """An index over the first `units` units of keys; later rows are searched exhaustively.

    `selector` restricts the index to alive rows; None if all are.
    """

    keys: Keys
    recipe: Recipe
    index: Any
    units: int
    selector: Any

    @classmethod
    def build(cls, keys: Keys, recipe: Recipe) -> "FaissSearch":
        """Train and fill an index: minutes for a million keys on a few cores."""
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
        """As in `Search`, among the index's candidates and the rows behind the index."""
        covered = self.units * UNIT
        count = min(max(k, self.recipe.candidates), covered)
        near_BC = self.index.search(query_BD.numpy(), count, params=self._parameters())[1]
        index_BC = torch.from_numpy(near_BC).sort(1).values
        score_BK, index_BK = best_of(self.keys, query_BD, index_BC, k)
        tail_BK, place_BK = Int8Search(self.keys.from_unit(self.units)).search(query_BD, k)
        score_BC = torch.cat([score_BK, tail_BK], 1)
        index_BC = torch.cat([index_BK, place_BK + covered], 1)
        score_BK, place_BK = top_stable(score_BC, k)
        return pad_results(score_BK, index_BC.gather(1, place_BK), k)

    def _parameters(self) -> Any:
        """Search parameters: how much of the index a query visits, and which rows are alive."""
        faiss = load_faiss()
        if isinstance(self.index, faiss.IndexHNSW):
            return faiss.SearchParametersHNSW(efSearch=self.recipe.probes, sel=self.selector)
        return faiss.SearchParametersIVF(nprobe=self.recipe.probes, sel=self.selector)


def has_faiss() -> bool:
    """True where faiss is installed."""
    return importlib.util.find_spec("faiss") is not None


def load_faiss() -> Any:
    """The faiss module, untyped and imported on first use."""
    return importlib.import_module("faiss")


def _sample(keys: Keys, rows: int, count: int) -> Any:
    """About `count` of the first `rows` rows, evenly spaced, as a float32 array."""
    step = max(1, rows // count)
    return (keys.code_ND[:rows:step] * keys.scale_N[:rows:step, None]).numpy()


def _alive_selector(alive_N: Tensor) -> Any:
    """A faiss selector of the alive rows."""
    bit_8 = 2 ** torch.arange(8)
    packed = (alive_N.view(-1, 8) * bit_8).sum(1).to(torch.uint8).numpy()
    return load_faiss().IDSelectorBitmap(packed)


DENSE_LIMIT = 4096
"""Rows up to which the float32 product is the fastest for any batch size."""

EXACT_LIMIT = 2_000_000
"""Rows up to which search is exhaustive. On a million realistic keys an index with an eighth of its
cells visited halved the time but missed 0.3 % of the nearest keys, since a distant paraphrase often
lies in another cell than its edit. This limit keeps a single query near 20 ms on two cores."""

LATE_LIMIT = 262_144
"""Rows behind an index, searched exhaustively, above which the index is rebuilt."""

_log = logging.getLogger(__name__)


def build_search(
    keys: Keys, previous: Search | None = None, exact_limit: int = EXACT_LIMIT
) -> Search:
    """The search for these keys. The index of `previous`, a search of an earlier view of the same
    bank, is reused while few rows are behind it."""
    if keys.count <= DENSE_LIMIT:
        return DenseSearch.build(keys)
    if keys.count <= exact_limit:
        return Int8Search(keys)
    if not has_faiss():
        _log.warning(
            "%d keys are searched exhaustively; for an index install the extra: "
            "pip install 'scen-platform[scale]'",
            keys.count,
        )
        return Int8Search(keys)
    if isinstance(previous, FaissSearch) and keys.count - previous.units * UNIT <= LATE_LIMIT:
        return previous.renewed(keys)
    return FaissSearch.build(keys, choose_recipe(keys))


def choose_recipe(keys: Keys) -> Recipe:
    """IVF with cells of 200 to 400 rows, an eighth of them visited, and PQ codes (4 bits per two
    dimensions); candidates are rescored with full keys."""
    cells = 1 << max(1, round(keys.count / 200).bit_length() - 1)
    code = f"PQ{keys.width // 2}x4fs" if keys.width % 2 == 0 else "SQ8"
    return Recipe(f"IVF{cells},{code}", probes=max(1, cells // 8), candidates=64)
