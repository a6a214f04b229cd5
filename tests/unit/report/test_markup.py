"""What people and models wrote never becomes markup."""

import pytest

from scen.report.markup import Markup, bullets, clip, join, tag


def test_text_and_attributes_are_escaped_and_markup_is_not() -> None:
    inner = tag("b", "<script>", title='"&')
    assert inner == '<b title="&quot;&amp;">&lt;script&gt;</b>'
    assert tag("p", "a < b ", inner) == f"<p>a &lt; b {inner}</p>"
    assert join(["<", Markup("<br>"), "&"]) == "&lt;<br>&amp;"


def test_what_is_made_from_markup_is_text_again() -> None:
    assert join([Markup("<b>") + "x"]) == "&lt;b&gt;x"


def test_names_of_attributes_and_void_elements() -> None:
    assert (
        tag("img", alt="x", class_="a", aria_label="b") == '<img alt="x" class="a" aria-label="b">'
    )
    assert tag("meta", name="x") == '<meta name="x">'


def test_control_signs_are_pictures() -> None:
    assert tag("td", "a\x00\x1b[1m\tb\n") == "<td>a\u2400\u241b[1m\tb\n</td>"


def test_bullets() -> None:
    assert bullets(["a", "<"]) == "<ul><li>a</li><li>&lt;</li></ul>"


@pytest.mark.parametrize(("text", "short"), [("abc", "abc"), ("abcd", "ab…")])
def test_clip(text: str, short: str) -> None:
    assert clip(text, 3) == short
