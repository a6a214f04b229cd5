"""How well prompts find their edit, and how often a prompt that should find none does.

A  ZsRE: a router fitted on the edits of the other folds, over a bank of all edits
B  CounterFact, likewise; its neighbourhood prompts are the near misses given
C  transfer: fitted on one data set and tested on the other; fitted on both
D  the neurons of arXiv 2404.02699 on the same edits, at their theta and at others
E  the plain router of a base that was not calibrated
F  bytes per edit against what is found: places, widths, number types

Every table prints JSON lines to stdout, and once more as Markdown to stderr at the end. Figures are
percentages: of rephrases, by their source, that reach their edit (right) or another (wrong); of all
others, false activation. `unseen` are prompts and rephrases of edits that are not in the bank;
`near misses made` put an edit's subject into another relation's question; `unrelated` prompts took
no part in any fit. `n` counts answers: unseen and unrelated prompts are put to the router of every
fold. Thresholds `in hindsight` are chosen on the test itself, so they flatter.

    PYTHONPATH=tests python tests/bench/bench_routing.py    # the samples, minutes
    PYTHONPATH=tests python tests/bench/bench_routing.py --limit 1000 --unseen 200 --folds 3 \\
        --tables A,B,C,D,E,F --counterfact counterfact.jsonl    # about an hour on two cores
"""

import argparse
import sys
from pathlib import Path

from bench.report import base_option, emit, new_parser
from bench.routing_bytes import key_bytes
from bench.routing_data import Files, Material, read_material
from bench.routing_folds import Row, own_kind, transfer
from bench.routing_paper import paper_rows, plain_rows
from bench.routing_places import PlacePlan, plan_places
from bench.routing_table import markdown
from scen.calibration.fit_router import RouterPlan
from scen.model.base import Base, load_base
from scen.samples import sample_path

TITLES = {
    "A": "A: ZsRE, fitted on other edits of ZsRE",
    "B": "B: CounterFact, fitted on other edits of CounterFact",
    "C": "C: transfer between data sets",
    "D": "D: the paper's neurons, not calibrated",
    "E": "E: the plain router, not calibrated",
    "F": "F: bytes per edit (ZsRE, one fold)",
}
SAMPLES = {
    "zsre": sample_path("zsre_edits.jsonl"),
    "counterfact": sample_path("counterfact_edits.jsonl"),
    "locality": sample_path("nq_locality.jsonl"),
}


def table_rows(
    table: str, material: Material, base: Base, places: PlacePlan, args: argparse.Namespace
) -> list[Row]:
    """The rows of one table."""
    fitted, plan = (
        material.at(places.router),
        RouterPlan(gate_steps=args.gate_steps, has_evidence=False),
    )
    if table in "AB":
        name = "zsre" if table == "A" else "counterfact"
        return own_kind(fitted, name, args.folds, plan)
    if table == "C":
        return transfer(fitted, args.folds, plan)
    if table == "F":
        return key_bytes(material, "zsre", places, plan)
    rows: list[Row] = []
    for name in material.streams:
        if table == "D":
            rows += paper_rows(material.at(places.paper), base, name)
        else:
            rows += plain_rows(material.at(places.plain), name)
    return rows


def parse() -> argparse.Namespace:
    """The command line; without files, the shipped samples."""
    parser = new_parser(__doc__)
    base_option(parser)
    add = parser.add_argument
    for name, path in SAMPLES.items():
        add(f"--{name}", type=Path, metavar="FILE", default=path,
            help=f"default: the sample {path.name}")  # fmt: skip
    add("--limit", type=int, default=200, help="ZsRE edits in the bank; of CounterFact "
        "half as many (%(default)s)")  # fmt: skip
    add("--unseen", type=int, default=20, help="edits behind those, whose prompts must reach none; "
        "at most a fifth of a file (%(default)s)")  # fmt: skip
    add("--folds", type=int, default=2, help="parts of the edits, each tested once (%(default)s)")
    add("--gate-steps", type=int, default=RouterPlan.gate_steps, help="of a fit (%(default)s)")
    add("--tables", default="A,B,D,E", help=f"of {','.join(TITLES)} (%(default)s)")
    args = parser.parse_args()
    args.tables = args.tables.replace(",", "")
    if wrong := set(args.tables) - set(TITLES):
        parser.error(f"--tables: no {', '.join(sorted(wrong))}; there are {', '.join(TITLES)}")
    if args.folds < 2:
        parser.error("--folds: at least 2, for some edits must be left to fit on")
    return args


def main() -> None:
    """Print a line per router and threshold, then the tables."""
    args = parse()
    base = load_base(args.base)
    places = plan_places(base)
    edits = {
        "zsre": (args.zsre, args.limit),
        "counterfact": (args.counterfact, args.limit // 2),
    }
    files = Files(edits, sample_path("nq_neutral.jsonl"), args.locality, args.unseen)
    material = read_material(base, places.needed(args.tables), files)
    shown = []
    for table in args.tables:
        rows = table_rows(table, material, base, places, args)
        for row in rows:
            emit(bench="routing", table=table, base=base.name, **row)
        shown.append(markdown(TITLES[table], rows))
    sys.stderr.write("\n" + "\n".join(shown))


if __name__ == "__main__":
    main()
