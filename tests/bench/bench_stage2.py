"""Stage 2: all indexing neurons of a stream of T edits, the published procedure against ours.

The published one runs the whole model over an edit and its whole history at each of 20 steps per
edit: too slow to be run whole. Single steps are measured at several lengths of history, a line is
fitted, and the sum over the stream is extrapolated; the output says so. Ours is run whole, the
pass that computes hidden states included.

    PYTHONPATH=tests python tests/bench/bench_stage2.py
"""

import argparse

import torch

from bench.report import (
    base_option,
    emit,
    new_parser,
    numbers,
    paper_layer,
    sample_edits,
    timed,
)
from scen.model import reference
from scen.model.base import Base, load_base
from scen.model.batch import pad_prompts
from scen.model.prefill import prefill
from scen.records import EncodedEdit
from scen.training.parts import NeuronPlan, fit_neurons

STEPS = 20
BATCH = 32


def fit_ours(base: Base, edits: list[EncodedEdit]) -> None:
    """Hidden states once per edit, then small matrix products."""
    layer, parts = paper_layer(base), []
    for begin in range(0, len(edits), BATCH):
        prompts = [edit.prompt for edit in edits[begin : begin + BATCH]]
        filled = prefill(base.model, pad_prompts(prompts, base.pad_id), layer, ())
        parts.append(filled.last(layer))
    fit_neurons(torch.cat(parts), [edit.seed for edit in edits], NeuronPlan(STEPS, 1e-4))


def extrapolate_reference(base: Base, edits: list[EncodedEdit]) -> tuple[float, list[int]]:
    """Seconds for the whole stream, and the history lengths at which one step was measured."""
    count = len(edits)
    lengths = [0, count // 2, count - 1]
    seconds = [
        timed(
            lambda size=size: reference.train_neuron(  # type: ignore[misc]
                base.model, paper_layer(base), edits[size], edits[:size], steps=1
            )
        )[1]
        for size in lengths
    ]
    design = torch.tensor([[1.0, float(size)] for size in lengths], dtype=torch.float64)
    target = torch.tensor(seconds, dtype=torch.float64)[:, None]
    fixed, per_edit = torch.linalg.lstsq(design, target).solution.flatten().tolist()
    return STEPS * (fixed * count + per_edit * count * (count - 1) / 2), lengths


def parse() -> argparse.Namespace:
    """The command line."""
    parser = new_parser(__doc__)
    base_option(parser)
    parser.add_argument("--sizes", type=numbers, default="50,200", help="of T (%(default)s)")
    return parser.parse_args()


def main() -> None:
    """Print a line per stream length."""
    args = parse()
    base = load_base(args.base, dtype="float32")
    everything = sample_edits(base, max(args.sizes))
    reference.train_neuron(base.model, paper_layer(base), everything[0], [], steps=1)  # warm up
    for count in args.sizes:
        edits = everything[:count]
        slow, lengths = extrapolate_reference(base, edits)
        _, fast = timed(lambda edits=edits: fit_ours(base, edits))  # type: ignore[misc]
        emit(bench="stage2", T=count, dtype="float32", seconds=fast, reference_seconds=slow,
             reference_is_extrapolated=True, reference_steps_measured_at_history=lengths,
             ratio_vs_reference=slow / fast)  # fmt: skip


if __name__ == "__main__":
    main()
