"""`scen register`: MLflow's model registry is brought in line with the ledger of a store."""

import argparse
from dataclasses import asdict

from rich.table import Table

from scen.cli.output import out, say, show_warnings, write_json
from scen.fs import Storage
from scen.pipeline.models import SyncReport, sync_models
from scen.pipeline.runtime import tracking_uri_of
from scen.tracking.models import RegisteredVersion


def run(args: argparse.Namespace) -> None:
    """Sync, and show what stands there. Raises ScenError, ConfigError, NotFoundError."""
    show_warnings()
    storage = Storage(args.store)
    uri = args.tracking_uri or tracking_uri_of(storage)
    report = sync_models(storage, uri, args.name, args.versions, say)
    if args.json:
        write_json({"store": storage.uri, "tracking_uri": uri} | asdict(report))
        return
    out.print(_table(report))
    out.print(f'load it    mlflow.pyfunc.load_model("models:/{report.model}@champion")')


def _table(report: SyncReport) -> Table:
    title = f"{report.model}, at version {report.version} of the ledger"
    table = Table(title=title, title_justify="left", title_style="bold")
    for name in ("model version", "alias", "of", "made"):
        table.add_column(name, overflow="fold")
    by_number = {one.number: one for one in (*report.made, *report.aliases.values())}
    for number, one in sorted(by_number.items(), reverse=True):
        aliases = [alias for alias, other in report.aliases.items() if other.number == number]
        is_new = any(other.number == number for other in report.made)
        table.add_row(str(number), ", ".join(aliases), _what(one), "now" if is_new else "before")
    return table


def _what(one: RegisteredVersion) -> str:
    if one.wave is None:
        return f"version {one.version}"
    return f"held wave {one.wave} on version {one.version}"
