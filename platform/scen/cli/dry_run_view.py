"""The forecast of `scen edit --dry-run` for people."""

from rich.table import Table
from rich.text import Text

from scen.cli.output import out
from scen.cli.render import shorten
from scen.pipeline.forecast import Forecast, ForecastEdit

_SHOWN = 20


def show_forecast(found: Forecast) -> None:
    """What would be committed, set aside and remarked, and how long it would take."""
    if found.admitted:
        out.print(_table(found.admitted))
    for row in found.rejections[:_SHOWN]:
        out.print(f"rejected   {row.id}: {row.field}: {row.reason}", soft_wrap=True)
    for remark in found.remarks[:_SHOWN]:
        out.print(f"note       {remark}", soft_wrap=True)
    for pair in (found.collisions or [])[:_SHOWN]:
        what = f"the router takes the prompt of {pair.id} to {pair.other} as well"
        out.print(f"collision  {what} (score {pair.score:.3g})", soft_wrap=True)
    counts = {"rejected": len(found.rejections), "collisions": len(found.collisions or [])}
    for name, count in counts.items():
        if count > _SHOWN:
            out.print(f"and {count - _SHOWN} more {name}; --json tells all")
    out.print(
        f"{len(found.admitted)} edits in {found.waves} waves would be committed on version "
        f"{found.version}, {sum(len(row.replaces) for row in found.admitted)} older ones "
        f"superseded, {found.known} known before, {len(found.rejections)} rejected"
    )
    if found.collisions is None:
        out.print("near-duplicates were not looked for: no router was loaded", soft_wrap=True)
    out.print(_time(found), soft_wrap=True)


def _time(found: Forecast) -> str:
    if found.train_seconds is None or found.eval_seconds is None:
        return "time       unknown for this base before the first wave; try --limit 8 first"
    parts = f"{found.train_seconds:.0f} s of training, {found.eval_seconds:.0f} s of measuring"
    if found.is_rough:
        return f"time       very roughly {parts}: a guess, until the store has waves to go by"
    return f"time       about {parts}, as the store's newest waves took"


def _table(rows: list[ForecastEdit]) -> Table:
    title = f"Prompts whose answers are meant to change (the first {min(len(rows), _SHOWN)})"
    table = Table(title=title, title_justify="left", title_style="bold")
    answers = ("answer now",) if any(row.answer is not None for row in rows) else ()
    for name in ("edit", "prompt", *answers, "new answer", "replaces"):
        table.add_column(name, overflow="fold")
    for row in rows[:_SHOWN]:
        now = [shorten(row.answer or "")] if answers else []
        cells = [row.id, shorten(row.prompt), *now, shorten(row.target)]
        table.add_row(*map(Text, (*cells, ", ".join(row.replaces))))
    return table
