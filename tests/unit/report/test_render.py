"""The page and its files: whole, self-contained, and safe to open."""

import csv
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import pytest

from scen.errors import ConfigError
from scen.fs import Storage
from scen.report.render import Report, environment, make_report, publish, require_place
from scen.report.store import Wanted, read_store
from scen.report.tables import Column, Table

SAID = Table(
    "things",
    "Things",
    (Column("name", "Name"), Column("said", "Said", "said"), Column("share", "Share", "share"),
     Column("count", "Count", "number"), Column("at", "When", "moment")),
    [
        {"name": "a<b", "said": "=1+1", "share": 0.5, "count": -3,
         "at": datetime(2026, 11, 25, 8, 9, 10, tzinfo=UTC)},
        {"name": None, "said": "", "share": None, "count": 2_000_000, "at": None},
        {"name": "a\x00\x1b[1m\tb", "said": "x" * 400, "share": None},
    ],
)  # fmt: skip
VOID = {"img", "meta", "br", "link"}


def table_html(limit: int) -> str:
    """The things as the template shows them."""
    macros = environment().from_string(
        "{% from 'macros.html.j2' import table %}{{ table(things, limit) }}"
    )
    return macros.render(things=SAID, limit=limit)


class Page(HTMLParser):
    """A page as its elements, with what is in them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def values(self, tag: str, name: str) -> list[str]:
        """An attribute of all elements of a kind."""
        return [attrs.get(name) or "" for found, attrs in self.tags if found == tag]


def report_of(storage: Storage, wanted: Wanted | None = None) -> Report:
    wanted = wanted or Wanted()
    return make_report(storage, read_store(storage, wanted), wanted)


@pytest.fixture(scope="module")
def report(made: Path) -> Report:
    return report_of(Storage(str(made)))


@pytest.fixture(scope="module")
def page(report: Report) -> Page:
    return Page(report.files["index.html"].decode())


def test_nothing_is_fetched_and_nothing_runs(page: Page) -> None:
    kinds = Counter(tag for tag, _ in page.tags)
    assert not kinds.keys() & {"script", "iframe", "object", "embed", "link"}
    assert all(src.startswith("data:image/") for src in page.values("img", "src"))
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
    assert any(v.startswith("default-src 'none'") for v in page.values("meta", "content"))


def test_ways_of_asking_have_a_table(page: Page, report: Report) -> None:
    found = {row["way"]: row for row in json.loads(report.files["asking.json"])}
    assert found["greeting"]["count"] == 5  # the active edits
    assert 0 <= found["greeting"]["exact"] <= 1
    assert found["task: translate"]["exact"] is None
    assert "Edits asked in other ways, and tasks about them" in "".join(page.words)


def test_what_people_wrote_is_text(page: Page, report: Report) -> None:
    words = "".join(page.words)
    for said in (
        "Who wrote <script>alert('x')</script> & \"more\"?",
        "<b>ann</b>",
        "wrong <source>",
        r"rephrases ($\frac$ <i>) exact",
    ):
        assert said in words
    assert b"<script" not in report.files["index.html"]


def test_a_table_shows_values_by_kind_and_escapes_them() -> None:
    html = table_html(3)
    for cell in (
        '<td class="text" dir="auto">a&lt;b</td>',
        '<td class="text" dir="auto">a\u2400\u241b[1m\tb</td>',
        '<td class="share">50.0 %</td>',
        '<td class="number">-3</td>',
        '<td class="moment">2026-11-25 08:09:10</td>',
        '<td class="said"><i>(empty)</i></td>',
        '<td class="number">2,000,000</td>',
        f'<td class="said" dir="auto">{"x" * 299}…</td>',
    ):
        assert cell in html
    assert html.count('scope="col"') == len(SAID.columns)
    assert "more" not in html


@pytest.mark.parametrize(("limit", "words"), [(2, "1 more row is in "), (1, "2 more rows are in ")])
def test_rows_over_the_limit_are_in_the_file(limit: int, words: str) -> None:
    html = table_html(limit)
    assert html.count("<tr>") == 1 + limit
    assert f'{words}<a href="things.csv">things.csv</a>' in html


def test_links_lead_somewhere(page: Page, report: Report) -> None:
    anchors = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(anchors) == len(set(anchors))
    for link in page.values("a", "href"):
        assert link[1:] in anchors if link.startswith("#") else link in report.files


def test_every_section_is_in_the_contents(page: Page) -> None:
    sections = page.values("section", "id")
    assert sections == ["short", "life", "waves", "again", "asking", "troubles", "files"]
    assert page.values("a", "href")[: len(sections)] == [f"#{name}" for name in sections]


def test_it_can_be_read_without_seeing_the_plots(page: Page) -> None:
    texts = page.values("img", "alt")
    assert len(texts) == 1 + 2 + 4 * 5 + 4 - 1  # life, streams, waves, again; no retention at first
    assert all(len(text) > 40 for text in texts)
    assert any(text.startswith("Active edits by version: 0 at 0, 3 at 1, 5 at 2") for text in texts)
    assert set(page.values("th", "scope")) == {"col"}
    assert page.values("html", "lang") == ["en"]


def test_every_measured_wave_has_a_part_and_the_newest_is_open(page: Page) -> None:
    parts = [attrs for tag, attrs in page.tags if tag == "details"]
    assert [part["id"] for part in parts] == ["wave-1", "wave-2", "wave-3", "wave-4"]
    assert ["open" in part for part in parts] == [True, False, False, False]


def test_tables_are_files_too(report: Report) -> None:
    tables = ("commits", "waves", "evaluations", "asking", "edits", "held", "quarantine", "reasons")
    assert set(report.files) == {"index.html", "report.json"} | {
        f"{name}.{kind}" for name in tables for kind in ("csv", "json")
    }
    counts = {}
    for name in tables:
        rows = json.loads(report.files[f"{name}.json"])
        text = report.files[f"{name}.csv"].decode("utf-8-sig")
        assert len(list(csv.DictReader(StringIO(text)))) == len(rows)
        counts[name] = len(rows)
    assert counts.pop("asking") > 20
    assert counts == {"commits": 4, "waves": 4, "evaluations": 1, "edits": 9, "held": 1,
                      "quarantine": 3, "reasons": 3}  # fmt: skip
    edits = json.loads(report.files["edits.json"])
    assert [row["spoke"] for row in edits][:1] == ["itself"]
    assert b"'=name f0" in report.files["edits.csv"]


def test_key_figures(report: Report) -> None:
    told = json.loads(report.files["report.json"])
    assert told == report.figures
    assert (told["version"], told["active_edits"], told["waves"]) == (4, 5, 4)
    assert told["newest_wave"]["version"] == 3
    assert told["newest_wave"]["edits answered exactly"] == {"share": 0.0, "asked": 2}
    assert len(told["held"]) == 1


def test_a_page_is_as_long_as_is_asked(made: Path) -> None:
    page = Page(
        report_of(Storage(str(made)), Wanted(limit=1, plots=1)).files["index.html"].decode()
    )
    assert len(page.values("details", "id")) == 1
    words = "".join(page.words)
    assert "3 older waves without plots here" in words
    assert "3 more rows are in commits.csv." in words


@pytest.mark.parametrize("wanted", [Wanted(version=0), Wanted(version=2), Wanted(stream="late")])
def test_less_is_a_page_too(made: Path, wanted: Wanted) -> None:
    page = Page(report_of(Storage(str(made)), wanted).files["index.html"].decode())
    assert page.values("section", "id")[0] == "short"


def test_a_store_without_journals_has_a_page(store: Storage) -> None:
    for name in [*store.names("waves"), *store.names("evaluations"), *store.names("quarantine")]:
        store.delete(name)
    words = "".join(Page(report_of(store).files["index.html"].decode()).words)
    assert "No wave of it was measured here." in words
    assert "No row of a file was set aside." in words


class Dying(Mapping[str, bytes]):
    """The files of a report whose process is stopped after some of them."""

    def __init__(self, files: Mapping[str, bytes], writes: int) -> None:
        self.files, self.writes = files, writes

    def __len__(self) -> int:
        return self.writes

    def __getitem__(self, name: str) -> bytes:
        return self.files[name]

    def __iter__(self) -> Iterator[str]:
        yield from itertools.islice(self.files, self.writes)
        raise KeyboardInterrupt


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("was_there", [False, True])
def test_a_killed_run_leaves_no_half_report(
    report: Report, tmp_path: Path, was_there: bool
) -> None:
    for writes in range(len(report.files)):
        folder = tmp_path / str(writes)
        if was_there:
            publish(report, folder)
        with pytest.raises(KeyboardInterrupt):
            publish(Report(Dying(report.files, writes), {}), folder)
        assert not (folder / "index.html").exists()
        require_place(folder)  # it can be made again
        publish(report, folder)
        assert files_of(folder) == report.files


def test_a_file_that_was_being_written_is_in_nobodys_way(report: Report, tmp_path: Path) -> None:
    (tmp_path / ".report.json.ab.part").write_text("{")
    require_place(tmp_path)


@pytest.mark.parametrize("name", ["thesis.txt", "report.json", "index.html"])
def test_a_folder_with_something_else_in_it_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text('{"made_by": "me"}')
    with pytest.raises(ConfigError, match="holds something else than an earlier report"):
        require_place(tmp_path)


def test_a_file_is_no_folder(report: Report, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="cannot be read"):
        require_place(tmp_path / "file")
    with pytest.raises(ConfigError, match="cannot be written"):
        publish(report, tmp_path / "file")


def test_what_else_is_beside_a_report_stays(report: Report, tmp_path: Path) -> None:
    publish(report, tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    require_place(tmp_path)
    publish(report, tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"
