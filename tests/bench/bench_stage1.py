"""Stage 1: edits per second of the published procedure and of ours, same edits, same run.

The reference trains in float32 as published (bfloat16 loses its small steps), ours is shown in
float32 and in the type that `dtype: auto` picks here; the last line also trains on other ways of
asking (`expert.other_ways`, the default of `scen edit`).

    PYTHONPATH=tests python tests/bench/bench_stage1.py
"""

import argparse
from functools import partial

from bench.report import base_option, emit, new_parser, paper_layer, sample_edits, timed
from scen.config import load_config
from scen.method import MethodName
from scen.model import reference
from scen.model.base import Base, load_base
from scen.records import EncodedEdit
from scen.training.experts import ExpertPlan, fit_experts


def plan_of(base: Base, method: MethodName, *, other_ways: bool) -> tuple[ExpertPlan, int]:
    """The default settings of a method, and its batch size."""
    expert = load_config(fixed={"method": method}).expert
    plan = ExpertPlan(
        method,
        paper_layer(base),
        expert.steps,
        expert.lr,
        expert.rank,
        expert.stop_loss,
        other_ways,
    )
    return plan, expert.batch_size


def fit_all(base: Base, method: MethodName, edits: list[EncodedEdit], *, other_ways: bool) -> float:
    """Train all edits; the mean number of steps that an edit took."""
    plan, size = plan_of(base, method, other_ways=other_ways)
    steps = 0
    for begin in range(0, len(edits), size):
        fitted = fit_experts(base.model, plan, edits[begin : begin + size], base.pad_id)
        steps += sum(len(curve) for curve in fitted.losses)
    return steps / len(edits)


def run_reference(base: Base, edits: list[EncodedEdit]) -> None:
    """The published procedure, one edit at a time."""
    for edit in edits:
        reference.train_expert(base.model, paper_layer(base), edit)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = new_parser(__doc__)
    base_option(parser)
    parser.add_argument("--edits", type=int, default=16, help="of the sample (%(default)s)")
    return parser.parse_args()


def main() -> None:
    """Print a line per method and number type."""
    args = parse()
    exact = load_base(args.base, dtype="float32")
    edits = sample_edits(exact, args.edits)
    run_reference(exact, edits[:1])  # warm up
    _, slow = timed(lambda: run_reference(exact, edits))
    emit(bench="stage1", method="reference", dtype="float32", edits=args.edits, seconds=slow,
         edits_per_second=args.edits / slow, ratio_vs_reference=1.0)  # fmt: skip
    auto = load_base(args.base)
    runs: list[tuple[MethodName, Base, bool]] = [
        ("scen", exact, False),
        ("scen-lr", exact, False),
        ("scen-lr", auto, False),
        ("scen-lr", auto, True),
    ]
    for method, base, other_ways in runs:
        run = partial(fit_all, base, method, other_ways=other_ways)
        run(edits[:4])  # warm up
        steps, fast = timed(partial(run, edits))
        emit(bench="stage1", method=method, dtype=str(base.dtype).removeprefix("torch."),
             other_ways=other_ways, edits=args.edits, seconds=fast, mean_steps=steps,
             edits_per_second=args.edits / fast, ratio_vs_reference=slow / fast)  # fmt: skip


if __name__ == "__main__":
    main()
