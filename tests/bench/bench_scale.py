"""How cost and quality grow with the number of edits: a stream end to end, then large stores.

    PYTHONPATH=tests python tests/bench/bench_scale.py                  # 500 edits, 10,000 neurons
    PYTHONPATH=tests python tests/bench/bench_scale.py --work scale --edits 10000 --sample 1000 \\
        --sizes 1000,10000,100000,1000000 --prompts 100000

Four stages, of which `--stages` picks some:

stream    edits of the ZsRE and CounterFact samples (a quarter at most) and made ones of their kinds
          (`scen samples make`) are trained, and committed in waves.
score     after the last commit, by free decoding: an even sample of the edits, with their age,
          rephrases, ways of asking and near misses; questions whose edit is absent (real and made
          ones that were never committed); unrelated questions. Groups end in `real` or `made`.
routing   the same questions by routing alone, among the first edits of the stream: by size. No edit
          need be trained.
neurons   stores of up to a million neurons, whose experts share a row: search, routing, memory,
          cold start, commits and swaps by size.

With `--work` everything is kept, and the same command goes on after a stop. The lines on stdout are
JSON; a table and the fitted exponents (slopes of log figure over log edits) go to stderr, and a
plot to `--plot`. An exponent of 0 is flat.
"""

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from bench.report import base_option, emit, new_parser, numbers
from bench.scale_neurons import bench_neurons
from bench.scale_stream import ScaleRun, route_by_size, score

STAGES = ("stream", "score", "routing", "neurons")
Line = Mapping[str, float]
_LEAST = 2  # points of a fit
PANELS: Mapping[str, Mapping[str, Sequence[str]]] = {
    "seconds": {
        "stream": ("seconds_per_edit", "train_seconds_per_edit"),
        "neurons": ("cold_start_s", "swap_s", "revoke_s", "commit_s"),
    },
    "milliseconds per prompt": {"neurons": ("search_ms", "route_ms")},
    "bytes per edit": {
        "stream": ("bundle_bytes_per_edit", "ledger_bytes_per_edit", "store_bytes_per_edit"),
        "neurons": ("key_bytes_per_edit",),
    },
    "% that reach an edit": {
        "routing": ("edit absent", "near miss", "unrelated", "another"),
        "neurons": ("edit absent",),
    },
}


def exponent(lines: Sequence[Line], name: str) -> tuple[float | None, int]:
    """The slope of log figure over log edits, and the number of points; None with fewer than two.
    Zeros are left out: they have no logarithm."""
    points = [(line["edits"], line[name]) for line in lines if line.get(name, 0) > 0]
    if len({edits for edits, _ in points}) < _LEAST:
        return None, len(points)
    edits, value = np.log(np.array(points)).T
    return float(np.polyfit(edits, value, 1)[0]), len(points)


def tell_exponents(figures: Mapping[str, Sequence[Line]]) -> dict[tuple[str, str], float]:
    """Print a line per figure that has one; all of them by stage and name."""
    slopes: dict[tuple[str, str], float] = {}
    for panel in PANELS.values():
        for stage, names in panel.items():
            for name in names:
                slope, points = exponent(figures.get(stage, ()), name)
                if slope is not None:
                    slopes[stage, name] = slope
                    emit(bench="scale_fit", stage=stage, figure=name, exponent=slope, points=points)
    return slopes


def draw(
    figures: Mapping[str, Sequence[Line]], slopes: Mapping[tuple[str, str], float], path: Path
) -> None:
    """A log-log panel per kind of figure."""
    figure = Figure(figsize=(13, 9), layout="constrained")
    for axes, (title, panel) in zip(figure.subplots(2, 2).flat, PANELS.items(), strict=True):
        for stage, names in panel.items():
            for name in names:
                lines = [line for line in figures.get(stage, ()) if line.get(name, 0) > 0]
                if not lines:
                    continue
                slope = slopes.get((stage, name))
                label = f"{stage}: {name}" + ("" if slope is None else f" ({slope:+.2f})")
                x, y = [line["edits"] for line in lines], [line[name] for line in lines]
                axes.plot(x, y, marker="o", markersize=3, label=label)
        axes.set(title=title, xscale="log", yscale="log", xlabel="edits")
        axes.grid(alpha=0.3, which="both")
        if axes.lines:
            axes.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def tell_table(figures: Mapping[str, Sequence[Line]]) -> None:
    """Every figure by size, stage by stage, as plain text on stderr."""
    for stage, lines in figures.items():
        picked = lines[:: max(1, len(lines) // 10)] if stage == "stream" else lines
        names = list(dict.fromkeys(name for line in picked for name in line))
        rows = [
            names,
            *([f"{line.get(name, float('nan')):.4g}" for name in names] for line in picked),
        ]
        widths = [max(len(row[i]) for row in rows) for i in range(len(names))]
        sys.stderr.write(f"\n{stage}\n")
        for row in rows:
            cells = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
            sys.stderr.write("  ".join(cells) + "\n")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = new_parser(__doc__)
    base_option(parser)
    add = parser.add_argument
    add("--template", default="auto", help="of the base (%(default)s)")
    add("--stages", default=",".join(STAGES), help="comma-separated (%(default)s)")
    add("--work", type=Path, help="folder that is kept, to go on after a stop (default: none)")
    add("--edits", type=int, default=500, help="in the stream (%(default)s)")
    add("--wave-size", type=int, default=200, help="in edits (%(default)s)")
    add("--sample", type=int, default=100, help="edits that are asked (%(default)s)")
    add("--sizes", type=numbers, default="1000,10000", help="in neurons, rising (%(default)s)")
    add("--prompts", type=int, default=1000, help="whose keys are read, for the neurons; at most "
        "--edits (%(default)s)")  # fmt: skip
    add("--plot", type=Path, metavar="FILE", help="(default: scale.png in --work, else none)")
    return parser.parse_args()


def run_stages(run: ScaleRun, args: argparse.Namespace) -> dict[str, Sequence[Line]]:
    """The lines of each stage that was asked for."""
    stages, figures = args.stages.split(","), dict[str, Sequence[Line]]()
    if "stream" in stages:
        run.apply()
        figures["stream"] = run.waves()
        for line in figures["stream"]:
            emit(bench="scale_stream", **line)
    if "score" in stages:
        score(run, run.open())
    if "routing" in stages:
        steps = [run.edits // n for n in (32, 16, 8, 4, 2, 1)]
        figures["routing"] = route_by_size(run, run.open(), sorted({s for s in steps if s}))
    if "neurons" in stages:
        figures["neurons"] = bench_neurons(run, args.sizes, args.prompts)
    return figures


def main() -> None:
    """Run the stages, then the fits, the table and the plot."""
    args = parse()
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.work or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        run = ScaleRun(folder, args.base, args.template, args.edits, args.wave_size, args.sample)
        figures = run_stages(run, args)
        slopes = tell_exponents(figures)
        tell_table(figures)
        if plot := args.plot or (args.work and args.work / "scale.png"):
            draw(figures, slopes, plot)


if __name__ == "__main__":
    main()
