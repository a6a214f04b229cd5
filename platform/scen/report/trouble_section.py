"""What went wrong, and the files beside the page."""

from collections.abc import Iterator, Sequence

from scen.report import tables
from scen.report.edit_rows import worst
from scen.report.markup import Markup, Section, bullets, join, tag
from scen.report.read_store import StoreFacts
from scen.report.table import Table
from scen.report.verdict import counted

_WORST = ("edit_id", "status", "prompt", "target", "after", "spoke", "score", "rephrases",
          "rephrases_right", "measured_at")  # fmt: skip
_HELD = ("wave_key", "edits", "held_at", "reasons", "reliability")
_FORMULAS = (
    "In the CSV files a text that a spreadsheet would take for a formula has a ' before it; the "
    "JSON files have every text as it is."
)


def troubles(facts: StoreFacts, limit: int) -> Section:
    """What went wrong."""
    parts = [
        *_wrong_edits(facts, limit),
        *_held_waves(facts, limit),
        *_rows_set_aside(facts, limit),
        _hint("Edits that may answer for each other are not looked for here: ", "scen collisions"),
    ]
    return Section("troubles", "What went wrong", join(parts))


def files(found: Sequence[Table]) -> Section:
    """The tables beside the page."""
    items = []
    for table in found:
        links = _link(f"{table.name}.csv"), ", ", _link(f"{table.name}.json")
        items.append(join([*links, f": {table.title} ({len(table.rows):,})"]))
    items.append(join([_link("report.json"), ": the key figures"]))
    note = tag("p", _FORMULAS, class_="note")
    return Section("files", "Files", join([bullets(items), note]))


def _wrong_edits(facts: StoreFacts, limit: int) -> Iterator[Markup]:
    found = worst(facts.edits)
    if found:
        title = "Active and held edits that do not answer exactly, or do not speak themselves"
        yield tables.edits_table(facts, found, title).pick(*_WORST).to_html(limit)
    else:
        yield tag("p", "Every edit that was measured answers exactly, and speaks itself.")


def _held_waves(facts: StoreFacts, limit: int) -> Iterator[Markup]:
    held = tables.held_table(facts)
    if held.rows:
        yield held.pick(*_HELD).to_html(limit)
        yield _hint("What becomes of them is decided by ", "scen promote", " or ", "scen reject")
    elif facts.version == facts.newest:
        yield tag("p", "The gate holds no wave.")
    else:
        yield tag("p", "Waves that the gate holds are told of with the newest version only.")


def _rows_set_aside(facts: StoreFacts, limit: int) -> Iterator[Markup]:
    reasons = tables.reasons_table(facts)
    if reasons.rows:
        yield reasons.to_html(limit)
        link = _link("quarantine.csv")
        yield tag("p", "Every row that was set aside is in ", link, ".", class_="note")
    else:
        yield tag("p", "No row of a file was set aside.")
    if facts.refused:
        told = f"{counted(facts.refused, 'edit')} handed in one by one came into no wave; why: "
        yield _hint(told, "GET /v1/edits/ID")


def _hint(*parts: str) -> Markup:
    """A sentence with every second part as code."""
    told = (tag("code", part) if i % 2 else part for i, part in enumerate(parts))
    return tag("p", *told, ".", class_="note")


def _link(name: str) -> Markup:
    return tag("a", name, href=name)
