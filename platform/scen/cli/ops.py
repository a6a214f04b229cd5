"""Maintenance commands: `verify`, `gc`, `publish`, `export`, `register`."""

import difflib
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter
from rich.table import Table

from scen.cli.life import about
from scen.cli.options import (
    DryRun,
    Json,
    Store,
    Version,
    Who,
    Why,
    between,
    room,
)
from scen.cli.output import (
    line,
    make_table,
    out,
    say,
    show_warnings,
    step_progress,
    write_json,
)

if TYPE_CHECKING:
    from scen.ledger.ledger import Ledger
    from scen.pipeline.models import SyncReport
    from scen.tracking.models import RegisteredVersion

app, _, command = room("Stores and bases", 6)


@command
def verify(
    *,
    store: Store,
    signature: Annotated[
        Path | None, Parameter(metavar="FILE", help="verify this signature, with the key of --key")
    ] = None,
    key: Annotated[
        Path | None, Parameter(metavar="PUBLIC_KEY", help="the signer's public key, PEM")
    ] = None,
    json: Json = False,
) -> None:
    """check that a store is complete and unchanged, or verify a signature

    Reads every log file, data file and bundle, and checks each against its
    digest and against the others. Damage ends with exit code 7. Orphans, files
    that nothing refers to, such as those of a killed run, are not damage. With
    --signature, verifies a signature of `scen sign`.
    """
    from scen.cli.base import verify_signed
    from scen.errors import IntegrityError
    from scen.fs import Storage
    from scen.ledger.verify import verify_store

    if signature is not None:
        verify_signed(store, signature, key, is_json=json)
        return
    with step_progress() as bars:
        findings = list(
            verify_store(Storage(store), lambda done, total: bars("bundles", done, total))
        )
    damage = [finding for finding in findings if finding.is_damage]
    if json:
        write_json({"sound": not damage, "findings": [asdict(finding) for finding in findings]})
    elif findings:
        rows = [(f.kind, f.where, f.what, f.fix) for f in findings]
        styles = ["red" if f.is_damage else "" for f in findings]
        out.print(make_table(("kind", "where", "what", "what to do"), rows, style=styles))
    else:
        out.print("the store is complete and unchanged")
    if damage:
        raise IntegrityError(
            f"{len(damage)} things are damaged or missing; each finding has its fix"
        )


@command
def gc(
    *,
    store: Store,
    keep_days: Annotated[
        float,
        between(0, 1e6, "a number of days"),
        Parameter(
            metavar="D", help="retain the versions of the last D days; 0: only the newest version"
        ),
    ] = 30.0,
    keep_versions: Annotated[
        tuple[int, ...],
        Parameter(
            name="--keep-version",
            metavar="V",
            help="also retain this version; may be repeated",
        ),
    ] = (),
    why: Why = "no retained version needs them",
    who: Who = None,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """delete experts and other files not referenced by any retained version

    Deletes bundles without an edit that is active at a retained version, and
    bundles and ledger files left behind by killed runs. Retained versions are:
    the newest, all of the last --keep-days days, those of --keep-version, pinned
    ones (such as those with an MLflow alias), the one that the server's policy
    holds or tries (POST /v1/snapshots/12:activate or 12:canary), and those in
    use by running servers. An edit whose expert was deleted stays in the log but
    cannot be restored by a rollback; the ledger records this before a file is
    deleted.

    A bundle holds the experts of a whole wave and is deleted when none of them
    is needed. The ledger keeps the text of all edits: to erase personal data,
    create a new store from the remaining edits (`scen rebase --help`) and delete
    this one.

    examples:
      scen gc --store ./my-store --dry-run
      scen gc --store ./my-store --keep-days 7 --keep-version 12
    """
    from scen.fs import Storage
    from scen.ledger.collect import Keep, collect, plan_collection
    from scen.ledger.ledger import open_ledger

    storage = Storage(store)
    ledger = open_ledger(storage)
    keep = Keep.for_days(datetime.now(UTC), keep_days, keep_versions)
    plan = plan_collection(storage, ledger, keep)
    version = ledger.version()
    if not dry_run:
        version = collect(storage, ledger, plan, about(why, who))
    if json:
        write_json(
            {
                "version": version,
                "dry_run": dry_run,
                "kept_versions": plan.kept,
                "edit_ids": plan.edit_ids,
                "files": [file.path for file in plan.files],
                "bytes": plan.num_bytes,
            }
        )
        return
    done = "would be deleted" if dry_run else "are deleted"
    out.print(f"{len(plan.files)} files, {plan.num_bytes:,} bytes, {done}")
    if plan.edit_ids:
        out.print(f"{len(plan.edit_ids)} edits that are not active cannot be rolled back to")
    kept = f"{len(plan.kept)} versions" if len(plan.kept) > 8 else ", ".join(map(str, plan.kept))
    out.print(f"retained: {kept} of 0 to {version}")
    if dry_run:
        say("nothing was written (--dry-run)")


@command
def publish(stream: str, /, *, store: Store, json: Json = False) -> None:
    """make the edits of a stream visible to all streams of the store

    By default the edits of a stream (of one tenant, for example) are visible to
    that stream only: `snapshot`, `delta`, `lookup` and `propose` of the store's
    registry omit them for other streams. A published stream, such as one of
    facts for every tenant, is visible to all. This controls what is listed, not
    what is answered: all edits of a store are in one model. For answers that
    only one tenant may see, use a separate store.

    examples:
      scen publish news --store ./my-store
      scen unpublish news --store ./my-store    visible to itself only again
    """
    _set_published(store, stream, "publish", is_json=json)


@command
def unpublish(stream: str, /, *, store: Store, json: Json = False) -> None:
    """make the edits of a stream visible to itself only again

    See `scen publish --help`.
    """
    _set_published(store, stream, "unpublish", is_json=json)


@command
def export(
    *,
    store: Store,
    out_dir: Annotated[str, Parameter(name="--out", metavar="DIR", help="a new folder")],
    edits: Annotated[
        tuple[str, ...],
        Parameter(
            name="--edit",
            metavar="EDIT_ID",
            help="export this edit; may be repeated (default: all active edits)",
        ),
    ] = (),
    version: Version = None,
    form: Annotated[
        Literal["peft", "alora"],
        Parameter(
            name="--format", help="alora applies from the last prompt token on, as experts do"
        ),
    ] = "peft",
    json: Json = False,
) -> None:
    """export edits as LoRA adapters in PEFT's format, with an index

    Each edit becomes a folder that peft, vLLM or LoRAX can load; index.jsonl
    maps prompts to adapters. The platform's experts apply from the last prompt
    token on, and so does --format alora; with peft, prefill the earlier tokens
    with the adapter off to get the same answer.

    examples:
      scen export --store ./my-store --edit mayor-paris --out ./adapters
      scen export --store ./my-store --out ./adapters --format alora
    """
    from scen.errors import ConfigError
    from scen.fs import Storage
    from scen.ledger.ledger import open_ledger
    from scen.pipeline.adapters import INDEX, Exporter

    storage = Storage(store)
    ledger = open_ledger(storage)
    snapshot = ledger.snapshot(version)
    edit_ids = edits or snapshot.ids
    if not edit_ids:
        raise ConfigError(f"{store}: no edit is active at version {snapshot.version}")
    entries = [ledger.find(edit_id, snapshot.version) for edit_id in dict.fromkeys(edit_ids)]
    folder, template = Path(out_dir), None
    if form == "alora":
        from scen.config import BaseConfig
        from scen.snapshot.open import load_store_base

        base = load_store_base(storage, BaseConfig(), say, weights=False)
        ledger.manifest.require_base(base.describe())
        template = base.template
    with step_progress() as bars:
        for _ in Exporter(storage, ledger, template).write(entries, folder):
            bars("export", 1, len(entries))
    index = str(folder / INDEX)
    if json:
        write_json({"version": snapshot.version, "adapters": len(entries), "index": index})
    else:
        line(f"{len(entries)} adapters of version {snapshot.version}, {index}")


@command
def register(
    *,
    store: Store,
    tracking_uri: Annotated[
        str | None,
        Parameter(
            metavar="URI",
            help="where MLflow is (default: MLFLOW_TRACKING_URI, else a SQLite file in the store)",
        ),
    ] = None,
    name: Annotated[
        str | None,
        Parameter(
            metavar="NAME",
            help="name of the registered model (default: scen-, then the end of the store's URI)",
        ),
    ] = None,
    versions: Annotated[
        tuple[int, ...],
        Parameter(
            name="--version",
            metavar="V",
            help="also register this ledger version; may be repeated",
        ),
    ] = (),
    json: Json = False,
) -> None:
    r"""register the versions of a store in MLflow's model registry, with aliases

    Registers the newest version of the ledger, unless it is registered, and sets
    three aliases:
      champion    the newest version of the ledger
      previous    the newest registered version before it
      candidate   the most recently held wave (`scen candidates`), if any, as if
                  it were promoted
    The ledger is only read: after `scen revoke` or `scen rollback` the next run
    moves the aliases and reverts manual changes in MLflow. `scen gc` keeps the
    experts of aliased versions. `scen edit` does the same when it ends, for all
    versions that it committed.

    A model version is a pointer of a few kB: MLflow keeps the URI of the store,
    the version and its digest, while experts stay in the store. Any process with
    scen-platform installed and access to the store can load it; the base, the
    version and its bundles are checked:

      mlflow.set_tracking_uri("http://mlflow:5000")
      model = mlflow.pyfunc.load_model("models:/scen-my-store@champion")
      model.predict(["Who founded X?"], params={"max_new_tokens": 32})

    The result is a table of answer, edit_id, score and version. If the store or
    the folder of the base has moved:
      load_model(..., model_config={"store": "s3://bucket/my-store",
                                    "base": "/models/mine"})

    examples:
      scen register --store ./my-store
      scen register --store ./my-store --tracking-uri http://mlflow:5000 \
           --name news-model
      scen register --store ./my-store --version 3 --version 5    older ones too
    """
    from scen.fs import Storage
    from scen.pipeline.models import sync_models
    from scen.pipeline.runtime import tracking_uri_of

    show_warnings()
    storage = Storage(store)
    uri = tracking_uri or tracking_uri_of(storage)
    report = sync_models(storage, uri, name, versions, say)
    if json:
        write_json({"store": storage.uri, "tracking_uri": uri} | asdict(report))
        return
    out.print(_model_table(report))
    out.print(f'load it    mlflow.pyfunc.load_model("models:/{report.model}@champion")')


def _set_published(store: str, stream: str, action: str, *, is_json: bool) -> None:
    """Publish or unpublish a stream; idempotent. Raises NotFoundError for a stream without
    edits."""
    from scen.fs import Storage
    from scen.ledger import markers
    from scen.ledger.ledger import open_ledger

    storage = Storage(store)
    ledger = open_ledger(storage)
    if stream not in markers.read_published(storage):
        _require_stream(ledger, stream)
    if action == "publish":
        markers.publish(storage, stream)
    else:
        markers.unpublish(storage, stream)
    now = sorted(markers.read_published(storage))
    if is_json:
        write_json({"action": action, "stream": stream, "published": now})
    else:
        line(f"published  {', '.join(now) or 'no stream'}")


def _require_stream(ledger: "Ledger", stream: str) -> None:
    from scen.errors import NotFoundError

    known = sorted({entry.stream for entry in ledger.snapshot().state.entries.values()})
    if stream in known:
        return
    near = difflib.get_close_matches(stream, known)
    hint = f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(known) or 'none'}"
    raise NotFoundError(f"stream: {stream!r} has no edits in this store; {hint}")


def _model_table(report: "SyncReport") -> Table:
    by_number = {v.number: v for v in (*report.made, *report.aliases.values())}
    made = {v.number for v in report.made}
    rows = (
        (
            str(number),
            ", ".join(alias for alias, other in report.aliases.items() if other.number == number),
            _registered(version),
            "now" if number in made else "before",
        )
        for number, version in sorted(by_number.items(), reverse=True)
    )
    title = f"{report.model}, at version {report.version} of the ledger"
    return make_table(("model version", "alias", "of", "made"), rows, title=title)


def _registered(model: "RegisteredVersion") -> str:
    if model.wave is None:
        return f"version {model.version}"
    return f"held wave {model.wave} on version {model.version}"
