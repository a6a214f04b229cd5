"""`scen publish` and `scen unpublish`: may other streams of a store see the edits of this one?"""

import argparse
import difflib

from scen.cli.output import out, write_json
from scen.errors import NotFoundError
from scen.fs import Storage
from scen.ledger.ledger import Ledger, open_ledger
from scen.ledger.markers import publish, read_published, unpublish


def run(args: argparse.Namespace) -> None:
    """Publish a stream, or end that; done twice is done once. Raises NotFoundError for a stream
    that was never heard of."""
    storage = Storage(args.store)
    ledger = open_ledger(storage)
    if args.stream not in read_published(storage):
        _require_stream(ledger, args.stream)
    if args.command == "publish":
        publish(storage, args.stream)
    else:
        unpublish(storage, args.stream)
    now = sorted(read_published(storage))
    if args.json:
        write_json({"action": args.command, "stream": args.stream, "published": now})
    else:
        out.print(f"published  {', '.join(now) or 'no stream'}", soft_wrap=True)


def _require_stream(ledger: Ledger, stream: str) -> None:
    known = sorted({entry.stream for entry in ledger.snapshot().state.entries.values()})
    if stream in known:
        return
    near = difflib.get_close_matches(stream, known)
    hint = f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(known) or 'none'}"
    raise NotFoundError(f"stream: {stream!r} has no edits in this store; {hint}")
