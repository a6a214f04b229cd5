"""A benchmark on a Ray cluster: `python -m scen_jobs.run_benchmark FILE --out URI`.

Takes the arguments of `scen benchmark`, and --cpus and --gpus: what each worker gets. Every method
and number of edits is a task of its own, side by side as far as the cluster has room; timings are
comparable where workers have devices for themselves. --out is needed, and must be where every node
can write: rows that are there are not measured again. `--tune` is for `scen benchmark` alone.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import torch

from scen.benchmark.material import Row, RowStore
from scen.benchmark.run import run_benchmark
from scen.benchmark.settings import BenchmarkSettings
from scen.cli.benchmark_command import load, publish, summary, wanted
from scen.cli.output import say
from scen.cli.parser import build_parser
from scen.cluster.session import ray_session
from scen.errors import ConfigError, ScenError
from scen.fs import Storage
from scen_jobs.one_worker import result_of, worker_options, worker_parser


def main(argv: Sequence[str], address: str = "auto") -> int:
    """Run a benchmark on the cluster at `address`; the exit code of `scen`."""
    own, rest = worker_parser().parse_known_args(argv)
    args = build_parser().parse_args(["benchmark", *rest])
    try:
        settings = _checked(args)
        with ray_session(address, show_workers=True) as ray:
            base_name, rows = _measure_all(ray, own, args, settings)
        publish(args, settings, Storage(args.out), base_name, rows)
    except ScenError as error:
        sys.stderr.write(f"scen job: {error}\n")
        return error.exit_code
    return 0


def _checked(args: argparse.Namespace) -> BenchmarkSettings:
    if args.tune:
        raise ConfigError("--tune: run `scen benchmark --tune` on one machine")
    if not args.out:
        raise ConfigError("--out: name a folder or URI that every node can write to")
    return wanted(args)


def _measure_all(
    ray: Any, own: argparse.Namespace, args: argparse.Namespace, settings: BenchmarkSettings
) -> tuple[str, list[Row]]:
    """The name of the base, and the rows in the order of the file."""
    task = ray.remote(**worker_options(own), max_retries=2)(_measure)
    parts = [
        settings.model_copy(update={"sizes": [size], "methods": [method]})
        for size in settings.sizes
        for method in settings.methods
    ]
    threads = args.threads or max(1, int(own.cpus))
    jobs = [task.remote(part, args.out, threads) for part in parts]
    found: list[tuple[str, Row]] = []
    for job in jobs:
        found.append(result_of(ray, job))
        say(summary(found[-1][1]))
    return found[0][0], [row for _, row in found]


def _measure(settings: BenchmarkSettings, place: str, threads: int) -> tuple[str, Row]:
    """On a worker: the name of the base, and the one row of a benchmark that was cut to it."""
    torch.set_num_threads(threads)
    base = load(settings)
    [row] = run_benchmark(base, settings, RowStore(Storage(place)), lambda *_: None)
    return base.name, row


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
