"""How long a server takes to read a new version, by how many edits the store has.

    PYTHONPATH=tests python tests/bench/bench_swap_sizes.py
    PYTHONPATH=tests python tests/bench/bench_swap_sizes.py --sizes 1000,20000    # a quick look

A real ledger and the base's shipped router; the edits' raw keys are drawn at random. One reader
follows the store, as a server's does. `commit_s` and `revoke_s` are a whole read of a version that
has 64 edits more, or one less, ledger included; `same_s` reads a version again. `full_s` is what
every swap cost before versions shared a bank: the compact keys of all edits joined and their search
keys made anew, in the same run. Medians.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from bench.plain_store import make_plain_store
from bench.report import base_option, emit, new_parser, numbers, timed
from scen.ledger.actions import Revoke, WaveCommit
from scen.records import Edit
from scen.routing.key_bank import Codes
from scen.routing.neurons import KeyNeurons, NeuronBuffer
from scen.snapshot.open import OpenStore
from scen_serve.engine.caches import Bundle, HostExpertCache
from scen_serve.engine.snapshots import SnapshotReader

WAVE = 1000
NEW = 64
REPEATS = 5


class DrawnKeys(HostExpertCache):
    """Bundles whose keys are drawn from their digests, and that hold no experts. `rows` tells how
    many edits each has."""

    def __init__(self, store: OpenStore) -> None:
        super().__init__(store.storage, (), 0)
        self.rows: dict[str, int] = {}
        self._shape = (len(store.method.places), store.base.model.config.intermediate_size)

    def read(self, digest: str) -> Bundle:
        draw = torch.Generator().manual_seed(int(digest, 16))
        return {"key": torch.randn(self.rows[digest], *self._shape, generator=draw)}


def commit(store: OpenStore, host: DrawnKeys, count: int) -> None:
    """A wave of so many edits."""
    version = store.ledger.version()
    digest = f"{version:064x}"
    host.rows[digest] = count
    edits = [
        Edit(f"{version}-{i}", f"Where was number {version}-{i} born?", "here")
        for i in range(count)
    ]
    store.ledger.commit(WaveCommit(f"w{version}", "bench", version, digest, edits), version)


def rebuild(neurons: KeyNeurons) -> KeyNeurons:
    """The same neurons, made from all compact keys."""
    codes = neurons.codes
    bank = NeuronBuffer(neurons.router, len(codes))
    for part in torch.arange(len(codes)).split(WAVE):
        bank.append(Codes(codes.int8_EKC[part], codes.scale_EKH[part]))
    return KeyNeurons.of_rows(bank, torch.arange(len(codes)))


def seconds(
    name: str, repeats: int, before: Callable[[], object], work: Callable[[], object]
) -> dict[str, float]:
    """Median times of some work, each after something else: by the clock, and of the processor."""
    wall, processor = [], []
    for _ in range(repeats):
        before()
        began = time.process_time()
        wall.append(timed(work)[1])
        processor.append(time.process_time() - began)
    medians = {f"{name}_s": wall, f"{name}_cpu_s": processor}
    return {name: round(statistics.median(taken), 4) for name, taken in medians.items()}


def bench(store: OpenStore, host: DrawnKeys, reader: SnapshotReader, size: int) -> None:
    """Fill the store up to a size, and print a line."""
    while (missing := size - len(store.ledger.snapshot().ids)) > 0:
        commit(store, host, min(WAVE, missing))
    neurons = reader.read().neurons
    assert isinstance(neurons, KeyNeurons)
    ids = iter(store.ledger.snapshot().ids[:: size // (2 * REPEATS)])
    emit(
        bench="swap_sizes",
        edits=size,
        new=NEW,
        bank_mb=round(neurons.codes.bytes_per_edit * len(neurons.codes) / 1e6, 1),
        **seconds("same", REPEATS, lambda: None, reader.read),
        **seconds("commit", REPEATS, lambda: commit(store, host, NEW), reader.read),
        **seconds("revoke", REPEATS, lambda: store.ledger.settle(Revoke([next(ids)])), reader.read),
        **seconds("full", 3, lambda: None, lambda: rebuild(neurons)),
    )


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = new_parser(__doc__)
    base_option(parser)
    sizes = "1000,20000,100000"
    parser.add_argument("--sizes", type=numbers, default=sizes, help="rising (%(default)s)")
    return parser.parse_args(words)


def main() -> None:
    """A line per size."""
    args = parse()
    with tempfile.TemporaryDirectory() as folder:
        store = make_plain_store(Path(folder), args.base)
        host = DrawnKeys(store)
        reader = SnapshotReader(store, host)
        for size in args.sizes:
            bench(store, host, reader, size)
        host.close()


if __name__ == "__main__":
    main()
