"""A stream of many edits in a Parquet file, on a tiny base: edits/s and peak memory of the driver.

    PYTHONPATH=tests python tests/bench/bench_large_stream.py --edits 100000

The base is random and an expert has one step of training, so that what is measured is everything
around the training: reading, admission, bundles, ledger. Prints a line every tenth of the stream:
`peak_mb` is the most resident memory of the process so far, `grown_mb` how much of it came since
the first wave, `seconds` the wall time so far.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bench.random_base import make_random_base
from bench.report import emit, new_parser
from conftest import WORDS
from scen.config import Config, load_config
from scen.fs import Storage
from scen.pipeline.apply import EditJob, apply_edits
from scen.pipeline.local import LocalParts
from scen.pipeline.plan import Wave
from scen.pipeline.runtime import Runtime

_BATCH = 10_000
_TENTHS = 10


def write_edits(path: Path, count: int) -> None:
    """`count` edits of different prompts, in row groups."""
    names = ["id", "prompt", "target"]
    with pq.ParquetWriter(path, pa.schema([(name, pa.string()) for name in names])) as writer:
        for begin in range(0, count, _BATCH):
            numbers = range(begin, min(begin + _BATCH, count))
            columns = [
                [f"edit-{i}" for i in numbers],
                [f"Who founded {WORDS[i % 10]} {i}?" for i in numbers],
                [WORDS[(i * 7 + 3) % 10][:4] for i in numbers],
            ]
            writer.write_table(pa.table(dict(zip(names, columns, strict=True))))


def peak_mb() -> float:
    """The most resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Watcher(LocalParts):
    """The usual parts, which tell how far the stream is."""

    def commit(self, wave: Wave, trained: dict[str, Any], evaluated: dict[str, Any]) -> int:
        """The commit, and a line every tenth of the stream."""
        version = super().commit(wave, trained, evaluated)
        WATCH.committed(len(wave.edits))
        return version


class Watch:
    """Counts the edits that are committed."""

    def __init__(self) -> None:
        self.edits, self.done, self.first_mb = 0, 0, 0.0
        self.began = time.perf_counter()

    def committed(self, count: int) -> None:
        """So many more; tells of the first wave and of every tenth of the stream."""
        before, self.done = self.done, self.done + count
        self.first_mb = self.first_mb or peak_mb()
        if before * _TENTHS // self.edits != self.done * _TENTHS // self.edits or not before:
            self.tell()

    def tell(self) -> None:
        """One line."""
        seconds = time.perf_counter() - self.began
        emit(bench="large_stream", edits=self.done, seconds=round(seconds, 1),
             edits_per_second=round(self.done / seconds, 1), peak_mb=round(peak_mb()),
             grown_mb=round(peak_mb() - self.first_mb))  # fmt: skip


WATCH = Watch()


def config_of(base: Path, wave_size: int) -> Config:
    """One step of training per edit, short answers."""
    return load_config(
        fixed={
            "base": {"name": str(base), "template": "raw", "dtype": "float32", "device": "cpu"},
            "expert": {"layer": 3, "steps": 1, "batch_size": 128},
            "evaluation": {"max_new_tokens": 2, "locality_limit": 4, "batch_size": 256},
            "waves": {"size": wave_size},
        }
    )


def parse() -> argparse.Namespace:
    """The command line."""
    parser = new_parser(__doc__)
    parser.add_argument("--edits", type=int, default=10_000, help="in the file (%(default)s)")
    parser.add_argument("--wave-size", type=int, default=1000, help="in edits (%(default)s)")
    return parser.parse_args()


def main() -> None:
    """Write the file, run the stream, print the figures."""
    args = parse()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        base = make_random_base(root / "base")
        write_edits(root / "edits.parquet", args.edits)
        WATCH.edits, WATCH.began = args.edits, time.perf_counter()
        job = EditJob(str(root / "edits.parquet"), is_tracked=False)
        config = config_of(base, args.wave_size)
        summary, _ = apply_edits(job, Storage(str(root / "store")), config, Runtime(Watcher))
        assert summary.committed == args.edits
        WATCH.tell()


if __name__ == "__main__":
    main()
