"""The normalised form of a message for routing, and the spans of it that may be a question.

The base always reads the text as the user wrote it. Routing reads a copy in which differences that
do not change the meaning are normalised: white space of any kind is one space, invisible characters
are removed, and sentences in capitals are in lower case.
"""

import re
import unicodedata
from collections.abc import Iterator

from sentencex import get_sentence_boundaries

from scen.text import plain_layout

MOST_SPANS = 16
"""Maximum number of spans of a message that are scored, the whole message included."""

Span = tuple[int, int]

_MIN_CAPITALS = 0.8  # share of capitals in a sentence that is lowercased
_MIN_LETTERS = 8  # of a sentence that is lowercased: acronyms are shorter
_MARKS = (
    *('""', "\u201c\u201d", "\u201e\u201c", "\u201e\u201d", "\u00ab\u00bb", "\u00bb\u00ab"),
    *("\u2018\u2019", "\u2039\u203a", "\u300c\u300d", "\u300e\u300f", "\uff02\uff02", "``"),
)
_QUOTED = re.compile(
    "|".join(f"{m[0]}([^{m}\n]+){m[1]}" for m in _MARKS)
    + r"|(?<!\w)'([^'\n]+(?:'\w[^'\n]*)*)'(?!\w)"
)
_PARTED = re.compile(
    "[:;\uff1a](?:-?[()DP])?\\s+|\\s[-=]{0,2}[-\u2013\u2014|~>]{1,3}\\s|\u2014|<[^<>\n]{1,40}>|\\*+"
    "|\\.{3}\\s*|\u2026\\s*"
)
_COMMA = re.compile("[,\u060c\u3001\uff0c]\\s*")
_FEW_WORDS = 6  # at most, in an address before or after a comma, such as "please"
_MIN_WORDS = 2  # of a span ...
_MIN_DENSE = 4  # ... or characters of a script without spaces


def routed_form(text: str) -> str:
    """The normalised copy of a message, which is routed; equal to it if nothing changes."""
    form = plain_layout(text)
    return "".join(_lower_capitals(form[begin:end]) for begin, end in _sentences(form))


def bare_form(text: str) -> str:
    """The normalised form of a whole message, without outer punctuation."""
    form = routed_form(text)
    begin, end = cut_spans(form)[0]
    return form[begin:end]


def cut_spans(text: str) -> list[Span]:
    """Character spans that may be a question of their own, without outer punctuation: the whole
    message first, then each sentence, line, quotation and text after a label, in text order.

    At most MOST_SPANS: if there are more, questions take priority over statements, and later spans
    over earlier ones.
    """
    whole = _bare(text, (0, len(text)))
    parts = dict.fromkeys(_bare(text, span) for span in _parts(text))
    others = [span for span in parts if span != whole and _is_long_enough(text, span)]
    if len(others) >= MOST_SPANS:
        kept = sorted(others, key=lambda s: ("?" in text[s[0] : s[1] + 2], s), reverse=True)
        others = sorted(kept[: MOST_SPANS - 1])
    return [whole, *others]


def _sentences(text: str) -> Iterator[Span]:
    """Spans of sentences, with the text between them; together they cover the text."""
    begin = 0
    for sentence in get_sentence_boundaries("en", text):
        yield begin, sentence["end_index"]
        begin = sentence["end_index"]
    if begin < len(text):
        yield begin, len(text)


def _lower_capitals(sentence: str) -> str:
    letters = [c for c in sentence if c.isupper() or c.islower()]
    if len(letters) < _MIN_LETTERS or " " not in sentence.strip():
        return sentence
    is_capitals = sum(c.isupper() for c in letters) >= _MIN_CAPITALS * len(letters)
    return sentence.lower() if is_capitals else sentence


def _parts(text: str) -> Iterator[Span]:
    for span in _sentences(text):
        yield from _within(text, span)
        if "\n" in text[span[0] : span[1]].strip():
            for line in _pieces(text, span, re.compile(r"\n")):
                yield from _within(text, line)


def _within(text: str, span: Span) -> Iterator[Span]:
    """A sentence or line, and the parts of it that may be a question of their own."""
    yield span
    for match in _QUOTED.finditer(text, *span):
        inner = next(match.span(i) for i, part in enumerate(match.groups(), 1) if part)
        for begin, end in _sentences(text[slice(*inner)]):
            yield inner[0] + begin, inner[0] + end
            yield from _without_address(text, (inner[0] + begin, inner[0] + end))
    pieces = list(_pieces(text, span, _PARTED))
    if len(pieces) > 1:
        yield from pieces
        yield pieces[1][0], span[1]
    for part in [span, *pieces[1:]]:
        yield from _without_address(text, part)


def _without_address(text: str, span: Span) -> Iterator[Span]:
    """A sentence without a few words before its first comma, after its last comma, and both."""
    commas = list(_COMMA.finditer(text, *span))
    if not commas:
        return
    first, last = commas[0], commas[-1]
    begin, end = span
    if len(text[begin : first.start()].split()) <= _FEW_WORDS:
        begin = first.end()
        yield begin, span[1]
    if len(text[last.end() : end].split()) > _FEW_WORDS:
        yield last.end(), end
    elif last.start() > begin:
        yield span[0], last.start()
        yield begin, last.start()


def _pieces(text: str, span: Span, mark: re.Pattern[str]) -> Iterator[Span]:
    begin = span[0]
    for match in mark.finditer(text, *span):
        yield begin, match.start()
        begin = match.end()
    yield begin, span[1]


def _bare(text: str, span: Span) -> Span:
    """The span without outer white space, punctuation and list numbers; unchanged if nothing would
    be left."""
    part = text[slice(*span)]
    lead = re.match(r"(?:[\W_]|\d{1,2}[.)]\s)+", part)
    begin = lead.end() if lead else 0
    tail = re.search(r"[\W_]+$", part[begin:])
    end = begin + tail.start() if tail else len(part)
    return (span[0] + begin, span[0] + end) if end > begin else span


def _is_long_enough(text: str, span: Span) -> bool:
    """True if a span is long enough to be a question."""
    part = text[slice(*span)]
    dense = sum(unicodedata.east_asian_width(c) in "WF" for c in part)
    return len(part.split()) >= _MIN_WORDS or dense >= _MIN_DENSE
