"""The sections of the page, from top to bottom."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime

from scen.fs import Storage
from scen.report import tables
from scen.report.figures import (
    MOST_SOURCES,
    curves_figure,
    frequent_sources,
    life_figure,
    quality_curves,
)
from scen.report.markup import Markup, Section, bullets, join, tag
from scen.report.pictures import gallery, picture
from scen.report.read_store import StoreFacts, Wanted
from scen.report.read_waves import WaveFacts
from scen.report.table import Table, moment, percent
from scen.report.verdict import concerns, counted, hits, measures, verdict
from scen.report.wave_section import evaluation_pictures, wave_details


def head(facts: StoreFacts, made_at: datetime) -> Markup:
    """What the report is of, and how it stands, in a few lines."""
    base, method = facts.manifest.base, facts.manifest.method
    older = "" if facts.version == facts.newest else f" (the newest is {facts.newest})"
    known = {
        "store": facts.uri,
        "base": f"{base['name']}, {base['template']}, {base['dtype']}, fingerprint "
        f"{str(base['fingerprint'])[:12]}",
        "method": f"{method['method']}, layer {method['layer']}"
        + (f", rank {method['rank']}" if method.get("rank") else ""),
        "version": f"{facts.version}{older}",
        "stream": facts.stream or "all: " + (", ".join(facts.streams) or "none"),
        "store made": facts.manifest.created_at.replace("T", " ").replace("+00:00", " UTC"),
        "report made": f"{moment(made_at)} UTC",
    }
    pairs = [part for name, value in known.items() for part in (tag("dt", name), tag("dd", value))]
    return tag("dl", *pairs)


def in_short(facts: StoreFacts) -> Section:
    """The verdict and the key figures."""
    look = concerns(facts)
    words = [tag("p", sentence) for sentence in verdict(facts)]
    if look:
        link = tag("a", "Worth a look", href="#troubles")
        words += [tag("p", tag("b", link, ":")), bullets(look)]
    else:
        words.append(tag("p", tag("b", "Nothing needs a look.")))
    said = tag("div", *words, class_="verdict look" if look else "verdict")
    return Section("short", "In short", join([said, *_cards(facts)]))


def life(facts: StoreFacts, limit: int) -> Section:
    """Active edits over versions, and the commits."""
    alt = f"Active edits by version: {_points(facts.life)}."
    figure = picture(life_figure(facts.life, facts.commits), alt, "Active edits over versions.")
    table = tables.commits_table(facts)
    newest_first = replace(table, rows=table.rows[::-1], title="Commits, the newest first")
    return Section("life", "Life of the store", join([figure, newest_first.to_html(limit)]))


def waves(storage: Storage, facts: StoreFacts, wanted: Wanted) -> Section:
    """The waves: a table, curves by stream, and each of the newest ones by itself."""
    shown = [wave for wave in _page_order(facts.waves) if wave.report][: wanted.plots]
    anchors = {wave.key: f"wave-{place}" for place, wave in enumerate(shown, 1)}
    parts = [_waves_table(facts, anchors).to_html(wanted.limit)]
    newest_first = dict.fromkeys(wave.stream for wave in reversed(facts.measured_waves))
    parts.append(gallery(_curves(facts, stream) for stream in [*newest_first][: wanted.plots]))
    parts += [tag("h3", "Wave by wave")] if shown else []
    parts += [
        wave_details(storage, wave, anchors[wave.key], is_open=wave is shown[0]) for wave in shown
    ]
    left = sum(wave.report is not None for wave in facts.waves) - len(shown)
    if left:
        more = f"{counted(left, 'older wave')} without plots here; --plots draws more."
        parts.append(tag("p", more, class_="note"))
    return Section("waves", "Waves", join(parts))


def measured_again(storage: Storage, facts: StoreFacts, limit: int) -> Section:
    """What `scen eval` measured."""
    anchor, title = "again", "Measured again"
    if not facts.evaluations:
        hint = tag("p", "No version was measured after its waves: ", tag("code", "scen eval"), ".")
        return Section(anchor, title, hint)
    table = tables.evaluations_table(facts)
    newest_first = replace(table, rows=table.rows[::-1], title="Evaluations, the newest first")
    pictures = gallery(evaluation_pictures(storage, facts))
    return Section(anchor, title, join([newest_first.to_html(limit), pictures]))


def asking(facts: StoreFacts) -> Section:
    """Where edits go when they are asked in other ways."""
    table, title = tables.asking_table(facts), "Ways of asking"
    if not table.rows:
        hint = tag("p", "No edit was asked in other ways: ", tag("code", "scen eval --asking"), ".")
        return Section("asking", title, hint)
    note = tag("p", "Tasks about a question or its subject must reach no edit.", class_="note")
    return Section("asking", title, join([table.to_html(len(table.rows)), note]))


def _cards(facts: StoreFacts) -> Iterator[Markup]:
    """The key figures of this version as it was measured again, or else of the newest wave."""
    reports = {
        "this version, measured again": [
            one.report for one in facts.evaluations if one.file.version == facts.version
        ],
        "the newest wave": [wave.report for wave in facts.measured_waves if wave.report],
    }
    name = next((name for name, found in reports.items() if found), None)
    if name is None:
        return
    report = reports[name][-1]
    cards = [tag("li", tag("b", f"{facts.life[-1]:,}"), "active edits")]
    for label, share, asked in measures(report):
        if share is not None:
            count = tag("span", hits(share, asked))
            cards.append(tag("li", tag("b", percent(share)), label, count))
    yield tag("ul", *cards, class_="cards")
    yield tag("p", f"Shares are those of {name}.", class_="note")


def _page_order(waves: Sequence[WaveFacts]) -> list[WaveFacts]:
    """Held waves, then those of the ledger, then the others; of each the newest first."""
    first = {"held": 0, "committed": 1, "promoted": 1}
    newest_first = waves[::-1]
    return sorted(newest_first, key=lambda wave: first.get(wave.status, 2))


def _waves_table(facts: StoreFacts, anchors: dict[str, str]) -> Table:
    """The waves for the page, with links to their parts, less the rarer kinds of rephrases."""
    table = tables.waves_table(facts)
    hidden = {f"generality_{source}" for source in frequent_sources(facts.waves)[MOST_SOURCES:]}
    hidden |= {"wave_key", "reliability_before", "answer_seconds_median", "answer_seconds_p95"}
    rows = [
        {**row, "wave": tag("a", str(row["wave"]), href=f"#{anchors[row['wave_key']]}")}
        if row["wave_key"] in anchors
        else row
        for row in map(tables.wave_row, _page_order(facts.waves))
    ]
    kept = [column.name for column in table.columns if column.name not in hidden]
    return replace(table, rows=rows, title="Waves: held ones, then the newest first").pick(*kept)


def _curves(facts: StoreFacts, stream: str) -> Markup:
    mine = [wave for wave in facts.measured_waves if wave.stream == stream]
    told = "; ".join(
        f"{name} {percent(points[0][1])} at version {points[0][0]}, {percent(points[-1][1])} at "
        f"version {points[-1][0]}"
        for name, points in quality_curves(mine).items()
    )
    caption = f"{counted(len(mine), 'wave')} of stream {stream}, each measured when it was made."
    figure = curves_figure(mine, f"Over the waves of {stream}")
    return picture(figure, f"Curves over the waves of {stream}: {told}.", caption)


def _points(counts: Sequence[int]) -> str:
    """Some of many numbers, in words."""
    step = max(1, len(counts) // 8)
    chosen = sorted({*range(0, len(counts), step), len(counts) - 1})
    return ", ".join(f"{counts[version]:,} at {version}" for version in chosen)
