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
"""

import argparse
import sys
from pathlib import Path

from bench.report import emit
from bench.routing_bytes import key_bytes
from bench.routing_data import Files, Material, read_material
from bench.routing_folds import Row, own_kind, transfer
from bench.routing_paper import paper_rows, plain_rows
from bench.routing_places import PlacePlan, plan_places
from bench.routing_table import markdown
from scen.base.embedded import EMBEDDED_NAME
from scen.base.load import Base, load_base
from scen.samples import sample_path
from scen.training.fit_router import RouterPlan

TITLES = {
    "A": "A: ZsRE, fitted on other edits of ZsRE",
    "B": "B: CounterFact, fitted on other edits of CounterFact",
    "C": "C: transfer between data sets",
    "D": "D: the paper's neurons, not calibrated",
    "E": "E: the plain router, not calibrated",
    "F": "F: bytes per edit (ZsRE, one fold)",
}
QUICK = "A,B,D,E"


def table_rows(
    table: str, material: Material, base: Base, places: PlacePlan, folds: int
) -> list[Row]:
    """The rows of one table."""
    fitted = material.at(places.router)
    if table in "AB":
        name = "zsre" if table == "A" else "counterfact"
        return own_kind(fitted, name, folds, RouterPlan())
    if table == "C":
        return transfer(fitted, folds, RouterPlan())
    if table == "F":
        return key_bytes(material, "zsre", places)
    rows: list[Row] = []
    for name in material.streams:
        if table == "D":
            rows += paper_rows(material.at(places.paper), base, name)
        else:
            rows += plain_rows(material.at(places.plain), name)
    return rows


def parse() -> argparse.Namespace:
    """The command line; without one, the shipped samples."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Without arguments: the shipped samples, tables A,B,D,E, about five minutes.\n"
        "The whole benchmark, about an hour on two cores:\n  python bench_routing.py --zsre "
        "zsre.jsonl --counterfact counterfact.jsonl \\\n    --locality questions.jsonl "
        "--limit 1000 --unseen 200 --folds 5",
    )
    add = parser.add_argument
    add("--base", default=EMBEDDED_NAME, help="hub id, folder or .gguf file (%(default)s)")
    add("--zsre", type=Path, metavar="FILE", help="ZsRE edits; all tables are then the default")
    add("--counterfact", type=Path, metavar="FILE", help="CounterFact edits")
    add("--locality", type=Path, metavar="FILE", help="unrelated prompts to test with")
    add("--limit", type=int, default=200, help="ZsRE edits in the bank; of CounterFact "
        "half as many (%(default)s)")  # fmt: skip
    add("--unseen", type=int, default=20, help="edits behind those, whose prompts must reach none "
        "(%(default)s)")  # fmt: skip
    add("--folds", type=int, default=2, help="parts of the edits, each tested once (%(default)s)")
    add("--tables", help=f"such as A,D; {QUICK} for the samples, else all")
    args = parser.parse_args()
    args.tables = (args.tables or (",".join(TITLES) if args.zsre else QUICK)).replace(",", "")
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
        "zsre": (args.zsre or sample_path("zsre_edits.jsonl"), args.limit),
        "counterfact": (
            args.counterfact or sample_path("counterfact_edits.jsonl"),
            args.limit // 2,
        ),
    }
    unrelated = args.locality or sample_path("nq_locality.jsonl")
    files = Files(edits, sample_path("nq_neutral.jsonl"), unrelated, args.unseen)
    material = read_material(base, places.needed(args.tables), files)
    shown = []
    for table in args.tables:
        rows = table_rows(table, material, base, places, args.folds)
        for row in rows:
            emit(bench="routing", table=table, base=base.name, **row)
        shown.append(markdown(TITLES[table], rows))
    sys.stderr.write("\n" + "\n".join(shown))


if __name__ == "__main__":
    main()
