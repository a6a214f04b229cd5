"""How good a quick calibration is, and what it costs, against other profiles of the same base.

Every profile is measured on the same questions about edits that took no part in any fit: the first
rows of the ZsRE and CounterFact samples, in ways of asking of the set `test`. The bank holds all of
these edits. Prints a JSON line per profile, with the shares of rephrases and other ways of asking
that reach their edit, and of near misses, tasks and unrelated prompts that reach none, in percent;
of `quick` and `full` also the seconds and the number of prompts read.

    PYTHONPATH=tests python tests/bench/bench_calibrate.py                 # quick against shipped
    PYTHONPATH=tests python tests/bench/bench_calibrate.py --base qwen.gguf --profiles quick,full
    PYTHONPATH=tests python tests/bench/bench_calibrate.py --profiles shipped,mine.json
"""

import argparse
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch

from bench.report import base_option, emit, new_parser
from scen.calibration.calibrate import Questions, build_questions, calibrate, read_keys
from scen.calibration.figures import HeldFigures, measure_held, score_router
from scen.calibration.fit_encoder import RouterKeys
from scen.calibration.fit_router import RouterPlan
from scen.calibration.quick import BOUND, SAMPLES, QuickPlan, calibrate_quick
from scen.calibration.router_set import thin_router_set
from scen.data import Validator, ingest
from scen.data.read import read_prompts
from scen.model.base import Base, load_base
from scen.model.keys import KeyPlace, SpanKeys
from scen.records import Edit
from scen.routing.router import Router
from scen.samples import sample_path
from scen.snapshot.method import Profile, find_profile, load_profile, save_profile

TESTED = {"zsre_edits.jsonl": 400, "counterfact_edits.jsonl": 100}  # rows that no fit has seen
_UNRELATED = 200


def rows(name: str, begin: int, end: int) -> list[Edit]:
    """Rows of a sample."""
    batches = ingest(str(sample_path(name)), Validator())
    return [edit for batch in batches for edit in batch.edits][begin:end]


def make_profile(name: str, base: Base, scale: float) -> tuple[Profile, dict[str, float]]:
    """A profile by name, and what it cost. `scale`: of the samples that `quick` uses."""
    began = time.perf_counter()
    if name == "quick":
        samples = [replace(s, count=max(8, int(s.count * scale))) for s in SAMPLES]
        plan = QuickPlan.of(base, samples=samples)
        profile = calibrate_quick(base, plan).profile
        cost = {"passes": plan.passes, "edits": len(plan.edits)}
    elif name == "full":
        edits = [rows(sample.name, sample.begin, sample.end) for sample in SAMPLES]
        unrelated = read_prompts(sample_path("nq_neutral.jsonl"))
        profile = calibrate(base, edits, unrelated, {}, RouterPlan(bound=BOUND)).profile
        cost = {"edits": sum(map(len, edits))}
    else:
        found = find_profile("shipped", base) if name == "shipped" else load_profile(Path(name))
        if found is None:
            raise SystemExit(f"no profile ships for {base.name}")
        return found, {}
    return profile, cost | {"seconds": round(time.perf_counter() - began, 1)}


class Bench:
    """The questions, and their keys by the places at which they were read."""

    def __init__(self, base: Base, share: float, per_edit: float) -> None:
        edits = [rows(name, 0, int(count * share)) for name, count in TESTED.items()]
        unrelated = read_prompts(sample_path("nq_locality.jsonl"), _UNRELATED)
        whole = build_questions(base, edits, unrelated, "test")
        count = int(per_edit * sum(map(len, edits)))
        self.asked = Questions(thin_router_set(whole.about, count), whole.test)
        self._base = base
        self._keys: dict[tuple[KeyPlace, ...], tuple[RouterKeys, SpanKeys]] = {}

    def measure(self, router: Router) -> HeldFigures:
        """How the questions are routed."""
        places = router.encoder.places
        if places not in self._keys:
            self._keys[places] = read_keys(self._base, places, self.asked, lambda *_: None)
        keys, test = self._keys[places]
        return measure_held(keys, router, score_router(keys, router), test)


def shares(figures: HeldFigures) -> Iterator[tuple[str, float]]:
    """The share of questions routed rightly, in percent, of each group of kinds."""
    groups: dict[str, list[tuple[float, int]]] = {}
    for kind in figures.kinds:
        name = kind.kind.partition(",")[0] if kind.right is not None else kind.kind
        right = 1 - kind.wrong if kind.right is None else kind.right
        groups.setdefault(name, []).append((right, kind.count))
        if kind.kind == "rephrases, orig":
            groups.setdefault("rephrases published", []).append((right, kind.count))
    for name, parts in groups.items():
        total = sum(count for _, count in parts)
        yield name, round(100 * sum(right * count for right, count in parts) / max(total, 1), 2)


def compare(base: Base, bench: Bench, args: argparse.Namespace) -> None:
    """A line per profile; with --keep, the profiles made are kept."""
    for name in args.profiles.split(","):
        profile, cost = make_profile(name, base, args.scale)
        if args.keep is not None and cost:
            save_profile(profile, args.keep / f"{name}.json")
        figures = bench.measure(profile.router)
        result: Mapping[str, float] = dict(shares(figures)) | {"auc": round(figures.auc, 4)}
        facts = {"threshold": profile.router.threshold, "bound": profile.router.bound}
        expert = {f"expert.{key}": value for key, value in profile.expert.items()}
        emit(bench="calibrate", base=base.name, profile=name, questions=len(bench.asked),
             **cost, **facts, **expert, **result)  # fmt: skip


def parse() -> argparse.Namespace:
    """The command line."""
    parser = new_parser(__doc__)
    base_option(parser)
    add = parser.add_argument
    add("--profiles", default="quick,shipped", help="quick, full, shipped or files of "
        "`scen calibrate` (%(default)s)")  # fmt: skip
    add("--share", type=float, default=0.5, help="share of the tested rows (%(default)s)")
    add("--per-edit", type=float, default=6, help="questions per edit (%(default)s)")
    add("--threads", type=int, default=1, help="of torch (%(default)s)")
    add("--scale", type=float, default=1, help="of the samples of quick (%(default)s)")
    add("--keep", type=Path, metavar="DIR", help="keep the profiles that are made here")
    return parser.parse_args()


def main() -> None:
    """Print a line per profile."""
    args = parse()
    torch.set_num_threads(args.threads)
    base = load_base(args.base)
    bench = Bench(base, args.share, args.per_edit)
    compare(base, bench, args)


if __name__ == "__main__":
    main()
