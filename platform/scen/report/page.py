"""The page as a whole."""

from collections.abc import Sequence
from importlib.resources import files

from scen.report.markup import Markup, Section, join, tag

# Nothing is fetched and nothing runs, whatever an edit says.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def page(title: str, head: Markup, sections: Sequence[Section]) -> bytes:
    """The page: a heading, facts, a table of contents, and the sections."""
    contents = [tag("li", tag("a", s.title, href=f"#{s.anchor}")) for s in sections]
    body = [
        tag("header", tag("h1", title), head),
        tag("nav", tag("ul", *contents), aria_label="Contents"),
        tag("main", *map(_section, sections)),
    ]
    top = [
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="generator", content="scen report"),
        tag("title", title),
        tag("style", _style()),
    ]
    whole = tag("html", tag("head", *top), tag("body", *body), lang="en")
    return join([Markup("<!DOCTYPE html>\n"), whole]).encode("utf-8", "replace")


def _section(section: Section) -> Markup:
    heading = tag("h2", section.title, id=f"{section.anchor}-title")
    name = f"{section.anchor}-title"
    return tag("section", heading, section.content, id=section.anchor, aria_labelledby=name)


def _style() -> Markup:
    return Markup((files("scen.report") / "style.css").read_text(encoding="utf-8"))
