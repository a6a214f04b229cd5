"""HTML as text: whatever is not `Markup` is escaped where it enters a page."""

import html
from collections.abc import Iterable
from dataclasses import dataclass

# Signs that no page may have are shown as the pictures that Unicode has of them.
_PICTURES = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n\r"}
_VOID = frozenset({"img", "meta", "link", "br"})


class Markup(str):
    """HTML that is right as it stands. What is made from it by other means than this module is
    plain text again, and is escaped."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page, under a heading that the table of contents leads to."""

    anchor: str
    title: str
    content: Markup


def tag(name: str, /, *children: str, **attributes: str) -> Markup:
    """An element. Attributes are named with `_` for `-`, and with one at the end where Python has
    the word itself, such as `class_`."""
    told = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_escape(value)}"'
        for key, value in attributes.items()
    )
    if name in _VOID:
        return Markup(f"<{name}{told}>")
    return Markup(f"<{name}{told}>{join(children)}</{name}>")


def join(parts: Iterable[str]) -> Markup:
    """Parts one after the other."""
    return Markup("".join(part if isinstance(part, Markup) else _escape(part) for part in parts))


def bullets(items: Iterable[str]) -> Markup:
    """A list of points."""
    return tag("ul", *(tag("li", item) for item in items))


def clip(text: str, width: int) -> str:
    """The beginning of a text."""
    return text if len(text) <= width else text[: width - 1] + "…"


def _escape(text: str) -> str:
    return html.escape(text.translate(_PICTURES))
