"""`scen base fetch` and `scen base info`."""

import argparse

from scen.cli.output import out, say, write_json
from scen.cli.render import facts_table
from scen.model.base import load_base, resolve_base
from scen.model.fetch import EMBEDDED_NAME


def run(args: argparse.Namespace) -> None:
    """Prepare a base, or tell what it is."""
    name = args.base or EMBEDDED_NAME
    if args.action == "fetch":
        folder = str(resolve_base(name, say))
        if args.json:
            write_json({"name": name, "folder": folder})
        else:
            out.print(f"{name} is ready in {folder}", soft_wrap=True)
        return
    base = load_base(
        name,
        template=args.template or "auto",
        dtype=args.dtype or "auto",
        device=args.device or "auto",
        say=say,
    )
    facts = base.describe() | {"folder": str(base.folder)}
    if args.json:
        write_json(facts)
    else:
        out.print(facts_table(facts))
