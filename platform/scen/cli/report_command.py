"""`scen report`: a store as one page of HTML, with its tables as files beside it."""

import argparse
from pathlib import Path

from scen.cli.output import out, write_json
from scen.fs import Storage
from scen.report.render import INDEX, make_report, publish, require_place
from scen.report.store import Wanted, read_store


def run(args: argparse.Namespace) -> None:
    """Write the report of a store. Raises NotFoundError for a store, version or stream that is not
    there, IntegrityError for a damaged file of it, ConfigError for a folder with something else in
    it."""
    storage = Storage(args.store)
    wanted = Wanted(args.version, args.stream, args.limit, args.plots)
    facts = read_store(storage, wanted)
    folder = Path(args.out)
    require_place(folder)
    report = make_report(storage, facts, wanted)
    publish(report, folder)
    index = str(folder / INDEX)
    if args.json:
        files = [str(folder / name) for name in report.files]
        write_json({**report.figures, "index": index, "files": files})
        return
    out.print(report.figures["verdict"], soft_wrap=True)
    for concern in report.figures["concerns"]:
        out.print(f"look at    {concern}", soft_wrap=True)
    out.print(f"report     {index}", soft_wrap=True)
