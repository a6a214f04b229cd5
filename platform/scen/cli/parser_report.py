"""The words of `scen report`."""

import argparse

from scen.cli.options import RAW, count, json_option, store_option

_EPILOG = """\
The page needs nothing but a browser: plots, tables and style are in it, and nothing is fetched or
run. It tells what the store's ledger and files hold (commits, waves, outcomes of `scen edit` and
`scen eval`, rows set aside); no base is loaded and nothing is measured anew. The tables are beside
it as CSV and JSON. A report that is there already is replaced.

examples:
  scen report --store ./my-store --out ./report          then open ./report/index.html
  scen report --store ./my-store --out ./june --version 12 --stream news
"""


def add_report(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`scen report`."""
    text = "a store as one HTML page with plots and tables, for people without MLflow"
    report = commands.add_parser(
        "report", help=text, description=text, epilog=_EPILOG, formatter_class=RAW
    )
    store_option(report)
    add = report.add_argument
    add("--out", required=True, metavar="DIR", help="a new folder, or one with an earlier report")
    add("--version", type=int, metavar="V", help="a ledger version (default: newest)")
    add("--stream", metavar="NAME", help="only the edits and waves of this stream")
    add("--limit", type=count, default=50, metavar="N",
        help="rows of each table on the page; the files have all (default: 50)")  # fmt: skip
    add("--plots", type=count, default=8, metavar="N",
        help="plots of the newest N waves and N streams (default: 8)")  # fmt: skip
    json_option(report)
