"""The words of `scen benchmark`."""

import argparse

from scen.cli.options import RAW, count, json_option

_EPILOG = """\
A benchmark is a YAML file (configs/eval/): edits, what must stay as it is, and the methods that are
compared, each with its settings. All methods edit the same base with the same edits and are asked
the same questions, after the last edit. Tables and charts go to stdout, to --out and to MLflow,
experiment benchmark/NAME. Every row is kept in --out when it is done: a run that was stopped goes
on where it ended, and a deleted folder begins anew.

examples:
  scen benchmark configs/eval/zsre-200.yaml                   every method, 200 edits
  scen benchmark configs/eval/zsre-200.yaml --size 50 --size 200 --method "SCEN platform"
  scen benchmark configs/eval/zsre-200.yaml --tune            try settings on the validation edits
  scen benchmark configs/eval/hallucination-200.yaml
"""


def add_benchmark(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`scen benchmark`."""
    text = "the platform beside what people would use instead, on the same edits"
    parser = commands.add_parser(
        "benchmark", help=text, description=text, epilog=_EPILOG, formatter_class=RAW
    )
    add = parser.add_argument
    add("config", metavar="FILE", help="the benchmark, such as configs/eval/zsre-200.yaml")
    add("--out", metavar="DIR", help="where rows and tables are kept (default: "
        ".scen/benchmark/NAME)")  # fmt: skip
    add("--size", type=count, action="append", metavar="T", help="so many edits instead of the "
        "file's sizes; may be repeated")  # fmt: skip
    add("--method", action="append", metavar="NAME", help="only this method of the file; may be "
        "repeated")  # fmt: skip
    add("--tune", action="store_true", help="try each method's grid on the validation edits, and "
        "say which settings are best; the file is not changed")  # fmt: skip
    add("--threads", type=count, metavar="N", help="threads of torch (default: all cores)")
    add("--no-tracking", action="store_true", help="do not write to MLflow")
    json_option(parser)
