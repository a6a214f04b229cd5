"""Nearest-key search over 1e3 .. 1e6 compact keys: latency, bytes and recall of each method.

Keys and queries are synthetic but drawn like those of real edits (search_keys.py); the first line
shows how like they are, as quantiles of cosines. The truth is the float32 product with the keys
before they became 8-bit. `recall_at_1` is over paraphrases of edits; `own_at_1` says how often
the nearest edit is the one that was paraphrased, `truth_own_at_1` how often it is for the truth;
`score_lost` is the most that a first result scores below the true one. Times are
milliseconds of processor time per query, of a batch of 1 and of 32. The methods `faiss SQ8` are
faiss's own exhaustive search over 8-bit codes, without and with the best few scored again.

    PYTHONPATH=tests python tests/bench/bench_search.py
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from bench.report import emit, new_parser, timed
from bench.search_keys import HELD_OUT, compare, draw_neurons, draw_queries, read_real_keys
from scen.model.base import load_base
from scen.model.weights import EMBEDDED_NAME
from scen.routing.key_bank import KeyBank, Keys
from scen.routing.search import (
    DenseSearch,
    FaissSearch,
    Int8Search,
    Recipe,
    Search,
    best_of,
    build_search,
    choose_recipe,
    has_faiss,
    load_faiss,
)

SIZES = (1_000, 10_000, 100_000, 1_000_000)
QUERIES = 2048
K = 8
INDEX_FROM = 10_000  # an index of fewer keys is not tried
VARIANTS_UP_TO = 100_000  # other indices than the chosen one: they take minutes to build
BUDGET_S = 2.0  # for one series of timings


@dataclass(frozen=True)
class Trial:
    """Queries over a bank, and what the float32 product says of them."""

    key_ND: Tensor
    query_BD: Tensor
    own_B: Tensor
    stranger_BD: Tensor
    nearest_B: Tensor
    nearest_stranger_B: Tensor


def nearest(key_ND: Tensor, query_BD: Tensor) -> Tensor:
    """The row of the largest float32 product, for each query."""
    best = [(query_BD @ part.T).max(1) for part in key_ND.split(50_000)]
    block_B = torch.stack([found.values for found in best]).argmax(0)
    index_NB = torch.stack([found.indices for found in best])
    return index_NB.gather(0, block_B[None])[0] + 50_000 * block_B


def methods(keys: Keys) -> Iterator[tuple[str, Search, int, float]]:
    """Name, search, bytes besides the 8-bit keys, and seconds that building it took."""
    yield "float32", DenseSearch.build(keys), 4 * keys.width * keys.count, 0.0
    yield "int8", Int8Search(keys), 0, 0.0
    if not has_faiss() or keys.count < INDEX_FROM:
        return
    flat, seconds = timed(lambda: FaissFlat.build(keys))
    yield "faiss SQ8", flat, keys.width * keys.count, seconds
    yield f"faiss SQ8 rescored {4 * K}", replace(flat, keys=keys), keys.width * keys.count, seconds
    chosen = choose_recipe(keys)
    cells = chosen.factory.partition(",")[0]
    recipes = [chosen]
    if keys.count <= VARIANTS_UP_TO:
        recipes += [Recipe(f"{cells},SQ8", chosen.probes, K), Recipe("HNSW32,SQ8", 256, K)]
    for recipe in recipes:
        search, seconds = timed(lambda recipe=recipe: FaissSearch.build(keys, recipe))  # type: ignore[misc]
        size_bytes = int(load_faiss().serialize_index(search.index).nbytes)
        for probes in (max(1, recipe.probes // 8), recipe.probes):
            name = f"{recipe.factory} probes {probes} rescored {recipe.candidates}"
            yield name, replace(search, recipe=replace(recipe, probes=probes)), size_bytes, seconds


@dataclass(frozen=True)
class FaissFlat:
    """faiss's exhaustive search over codes of 8 bits per number and a range per dimension, with
    `keys` the best few scored again: what Int8Search is compared with. Hides no rows."""

    index: Any
    keys: Keys | None = None

    @classmethod
    def build(cls, keys: Keys) -> "FaissFlat":
        faiss = load_faiss()
        index = faiss.index_factory(keys.width, "SQ8", faiss.METRIC_INNER_PRODUCT)
        key_ND = keys.dequantise(0, keys.count).numpy()
        index.train(key_ND)
        index.add(key_ND)
        return cls(index)

    def search(self, query_BD: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """As in `Search`."""
        if self.keys is None:
            score_BK, index_BK = self.index.search(query_BD.numpy(), k)
            return torch.from_numpy(score_BK), torch.from_numpy(index_BK)
        index_BC = torch.from_numpy(self.index.search(query_BD.numpy(), 4 * k)[1]).sort(1).values
        return best_of(self.keys, query_BD, index_BC, k)


def latency(search: Search, query_BD: Tensor, batch: int) -> tuple[float, float]:
    """p50 and p99 of the milliseconds per query."""
    search.search(query_BD[:batch], K)
    taken: list[float] = []
    for part in query_BD.split(batch):
        if sum(taken) > BUDGET_S and len(taken) > 4:
            break
        began = time.process_time()
        search.search(part, K)
        taken.append(time.process_time() - began)
    p50, p99 = (torch.tensor(taken) / batch * 1e3).quantile(torch.tensor([0.5, 0.99])).tolist()
    return p50, p99


def accuracy(search: Search, trial: Trial) -> dict[str, float]:
    """How often the truth is found."""
    index_BK = torch.cat([search.search(part, K)[1] for part in trial.query_BD.split(32)])
    stranger_BK = torch.cat([search.search(part, K)[1] for part in trial.stranger_BD.split(32)])
    lost_B = (trial.query_BD * trial.key_ND[trial.nearest_B]).sum(1) - (
        trial.query_BD * trial.key_ND[index_BK[:, 0]]
    ).sum(1)
    return {
        "recall_at_1": _share(index_BK[:, 0] == trial.nearest_B),
        "recall_at_8": _share((index_BK == trial.nearest_B[:, None]).any(1)),
        "score_lost": round(float(lost_B.max()), 5),
        "own_at_1": _share(index_BK[:, 0] == trial.own_B),
        "own_at_8": _share((index_BK == trial.own_B[:, None]).any(1)),
        "truth_own_at_1": _share(trial.nearest_B == trial.own_B),
        "stranger_recall_at_1": _share(stranger_BK[:, 0] == trial.nearest_stranger_B),
        "stranger_recall_at_8": _share((stranger_BK == trial.nearest_stranger_B[:, None]).any(1)),
    }


def _share(is_so_B: Tensor) -> float:
    return round(float(is_so_B.float().mean()), 4)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = new_parser(__doc__)
    add = parser.add_argument
    add("--max-neurons", type=int, default=SIZES[-1], help="largest bank (%(default)s)")
    add("--edits", type=int, default=HELD_OUT, help="ZsRE edits whose keys are imitated, and half "
        "as many of CounterFact (%(default)s)")  # fmt: skip
    return parser.parse_args()


def main() -> None:
    """Print a line on the keys, then a line per number of keys and method."""
    args = parse()
    draw = torch.Generator().manual_seed(0)
    real = read_real_keys(load_base(EMBEDDED_NAME, dtype="float32"), args.edits)
    emit(bench="search_keys", D=real.width, **compare(real, draw))
    for count in (size for size in SIZES if size <= args.max_neurons):
        key_ND = draw_neurons(real, count, draw)
        bank = KeyBank(real.width)
        for part in key_ND.split(50_000):
            bank.append(part)
        keys = bank.snapshot()
        query_BD, own_B = draw_queries(real, key_ND, QUERIES, draw)
        found_B, found_stranger_B = nearest(key_ND, query_BD), nearest(key_ND, real.stranger_ND)
        trial = Trial(key_ND, query_BD, own_B, real.stranger_ND, found_B, found_stranger_B)
        choice = type(build_search(keys))
        for name, search, size_bytes, seconds in methods(keys):
            alone, together = (latency(search, query_BD, batch) for batch in (1, 32))
            emit(bench="search", N=count, D=real.width, method=name, chosen=type(search) is choice,
                 ms_batch_1=alone, ms_batch_32=together, bytes=keys.size_bytes + size_bytes,
                 build_seconds=seconds, threads=torch.get_num_threads(),
                 **accuracy(search, trial))  # fmt: skip


if __name__ == "__main__":
    main()
