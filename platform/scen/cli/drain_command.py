"""`scen drain`: edits that were handed in one by one become committed waves, as they come."""

import argparse
import time
from collections.abc import Iterator
from dataclasses import asdict

from scen.cli.apply import MakeParts, make_validator, open_parts, tracking_uri_of
from scen.cli.output import StepProgress, out, say, show_warnings, step_progress, write_json
from scen.cli.settings import read_config, store_method
from scen.config import Config
from scen.errors import ConfigError
from scen.fs import Storage
from scen.ingest.inbox import Inbox
from scen.ingest.prompts import read_prompts
from scen.samples import sample_path
from scen.snapshot.open import OpenStore, ReadElsewhere, create_store
from scen.waves.drain import Drain, Drained
from scen.waves.local import LocalParts
from scen.waves.plan import Wave

_POLL_S = 0.5


def run(args: argparse.Namespace) -> None:
    """Make waves of what waits; for ever, but with --once."""
    show_warnings()
    drain_inbox(args)


def drain_inbox(
    args: argparse.Namespace,
    make_parts: MakeParts = LocalParts,
    elsewhere: ReadElsewhere | None = None,
) -> OpenStore:
    """The same, with the work done where these say (see `apply_edits`). Raises ScenError."""
    storage = Storage(args.store)
    inbox, config = Inbox(storage, args.stream), _config(args, storage)
    neutral = read_prompts(sample_path("nq_neutral.jsonl"))
    store = create_store(storage, config, neutral, say, elsewhere)
    uri = None if args.no_tracking else tracking_uri_of(storage)
    with step_progress() as bars:
        parts = open_parts(store, config, bars, args.locality, uri, make_parts)
        say(f"{storage.uri}/inbox/{args.stream} is drained; stop with Ctrl-C")
        for found in _waves(_drain(args.stream, inbox, parts, bars), is_once=args.once):
            _show(found, args.json)
    return store


def _config(args: argparse.Namespace, storage: Storage) -> Config:
    config = read_config(args, args.method or store_method(storage))
    if config.waves.on_conflict == "refuse":
        raise ConfigError(
            "--on-conflict: refuse would end here for good at the first contradiction; take "
            "quarantine or supersede"
        )
    return config


def _drain(stream: str, inbox: Inbox, parts: LocalParts, bars: StepProgress) -> Drain:
    def starting(wave: Wave) -> None:
        bars.start_wave(f"wave {wave.index} of {stream}: {len(wave.edits)} edits")

    return Drain(stream, inbox, parts, lambda: make_validator(parts), starting)


def _waves(drain: Drain, *, is_once: bool) -> Iterator[Drained]:
    while True:
        found = drain.step(is_last=is_once)
        if found is not None:
            yield found
        elif is_once:
            return
        else:
            time.sleep(_POLL_S)


def _show(found: Drained, is_json: bool) -> None:
    if is_json:
        write_json(asdict(found))
        return
    committed = None if found.report is None else found.report.version
    version = "" if committed is None else f", version {committed}"
    out.print(
        f"wave {found.number}: {found.committed} edits committed, {found.superseded} older ones "
        f"superseded, {found.known} known before, {len(found.rejections)} rejected{version}"
    )
    for row in found.rejections:
        out.print(f"rejected   {row.id}: {row.field}: {row.reason}", soft_wrap=True)
    for remark in found.remarks:
        out.print(f"note       {remark}", soft_wrap=True)
