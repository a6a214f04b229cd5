"""Which search for how many edits."""

import logging

from scen.routing.growing_rows import UNIT
from scen.routing.key_bank import Keys
from scen.routing.search import DenseSearch, Int8Search, Search
from scen.routing.search_faiss import FaissSearch, Recipe, has_faiss

DENSE_LIMIT = 4096
"""Rows up to which the float32 product is the fastest, whatever the batch."""

EXACT_LIMIT = 2_000_000
"""Rows up to which every row is looked at. Of a million real-like keys an index with an eighth of
its cells visited halved the time, but missed 0.3 % of the nearest keys, since a far paraphrase
often lies in another cell than its edit. This limit keeps a lone query near 20 ms on two cores."""

LATE_LIMIT = 262_144
"""Rows behind an index, searched exactly, from which on a new index is worth its minutes."""

_log = logging.getLogger(__name__)


def build_search(
    keys: Keys, previous: Search | None = None, exact_limit: int = EXACT_LIMIT
) -> Search:
    """The search for these keys; `previous`, of an earlier view of the bank, lends its index."""
    if keys.count <= DENSE_LIMIT:
        return DenseSearch.build(keys)
    if keys.count <= exact_limit:
        return Int8Search(keys)
    if not has_faiss():
        _log.warning(
            "%d keys are searched one by one; for an index install the extra: "
            "pip install 'scen-platform[scale]'",
            keys.count,
        )
        return Int8Search(keys)
    if isinstance(previous, FaissSearch) and keys.count - previous.units * UNIT <= LATE_LIMIT:
        return previous.renewed(keys)
    return FaissSearch.build(keys, choose_recipe(keys))


def choose_recipe(keys: Keys) -> Recipe:
    """Cells of 200 to 400 rows, an eighth of them visited: 4 bits per two numbers, then keys."""
    cells = 1 << max(1, round(keys.count / 200).bit_length() - 1)
    code = f"PQ{keys.width // 2}x4fs" if keys.width % 2 == 0 else "SQ8"
    return Recipe(f"IVF{cells},{code}", probes=max(1, cells // 8), candidates=64)
