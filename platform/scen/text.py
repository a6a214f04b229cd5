"""Text normalisation for comparison, and detection of hidden characters.

Texts compare equal if a reader would see no difference that matters: white space, case, end marks,
hidden characters and compatibility forms of the same letters (full width, ligatures) are ignored.
Text that reads differently stays different: 2⁵ and 25, ½ and 1/2, ② and 2.
"""

import re
import unicodedata

from idna.core import valid_contextj

END_MARKS = "?.! \u3002\u061f"
"""Characters that may end a question or statement without changing it: marks and spaces."""

_MAX_NAMED = 3
_BLANK = re.compile(r"[^\S\n]+")
_BREAK = re.compile(r"\r\n?|[\v\f\x1c-\x1e\x85\u2028\u2029]")
_WRAPPED = re.compile(r"(?<=[^\W_]|,) ?\n ?(?=[a-z0-9])")  # a line that continues on the next

# Unicode's Default_Ignorable_Code_Point beyond the category Cf: fillers, variation selectors, ...
_IGNORABLE = (
    *(range(0x34F, 0x350), range(0x115F, 0x1161), range(0x17B4, 0x17B6), range(0x180B, 0x1810)),
    *(range(0x2065, 0x2066), range(0xFE00, 0xFE10), range(0xFFF0, 0xFFF9)),
    range(0xE0000, 0xE1000),
)
# Joiners change the shape of some letters and emoji, tags make the flags of regions of a country.
_JOINERS = re.compile("([\u200c\u200d])[\u200c\u200d]*")
_TAGS = re.compile("(\U0001f3f4[\U000e0020-\U000e007e]+\U000e007f)|[\U000e0020-\U000e007f]")
_MAYBE_SHOWN = {0x200C, 0x200D, *range(0xE0020, 0xE0080)}
_ODD = set(map(chr, _MAYBE_SHOWN))
_BLANK_LETTERS = {0x2800: " ", 0x3164: " ", 0xFFA0: " "}  # Braille blank and Hangul fillers

# Compatibility forms of the same letters. Left out: <super>, <sub>, <fraction>, <circle>.
_SAME_LETTERS = {
    *("<wide>", "<narrow>", "<small>", "<vertical>", "<noBreak>", "<compat>"),
    *("<initial>", "<medial>", "<final>", "<isolated>"),
}
_SQUARED_WORDS = range(0x3300, 0x3400)  # ㎏; unlike 🄰, a letter in a square
_STYLED_ALPHABETS = range(0x1D400, 0x1EF00)  # unlike letters such as U+211D, the real numbers


class _Shown(dict[int, str | None]):
    """For str.translate: drops hidden characters. Filled on demand."""

    def __missing__(self, code: int) -> str | None:
        is_format = unicodedata.category(chr(code)) == "Cf"
        is_hidden = is_format or any(code in span for span in _IGNORABLE)
        self[code] = None if is_hidden and code not in _MAYBE_SHOWN else chr(code)
        return self[code]


class _Plain(dict[int, str]):
    """For str.translate: maps compatibility forms to the plain letters."""

    def __missing__(self, code: int) -> str:
        tag, *parts = unicodedata.decomposition(chr(code)).split() or [""]
        is_same = (
            tag in _SAME_LETTERS
            or (tag == "<square>" and code in _SQUARED_WORDS)
            or (tag == "<font>" and code in _STYLED_ALPHABETS)
        )
        # Recursive: ㎡ is a plain m and a raised 2.
        self[code] = "".join(self[int(part, 16)] for part in parts) if is_same else chr(code)
        return self[code]


class _Unformatted(dict[int, str | None]):
    """For str.translate: drops all characters of category Cf."""

    def __missing__(self, code: int) -> str | None:
        self[code] = None if unicodedata.category(chr(code)) == "Cf" else chr(code)
        return self[code]


_SHOWN, _PLAIN, _UNFORMATTED = _Shown(), _Plain(_BLANK_LETTERS), _Unformatted()
# Characters seen so far that are neither hidden nor a compatibility form.
_ORDINARY: set[str] = set()


def _is_ordinary(text: str) -> bool:
    """True if no character is hidden or a compatibility form; the fast path of nearly all text."""
    if text.isascii():
        return True
    fresh = set(text) - _ORDINARY
    _ORDINARY.update(c for c in fresh if _PLAIN[ord(c)] == c == _SHOWN[ord(c)] and c not in _ODD)
    return fresh <= _ORDINARY


def normalise(text: str) -> str:
    """The form in which prompts, targets, subjects and relations are compared."""
    if not text.isascii():
        text = _composed(text)
        if not _is_ordinary(text):
            text = _composed(drop_hidden(_composed(text.translate(_PLAIN))))
        text = _composed(text.casefold())
    return " ".join(text.casefold().split()).rstrip(END_MARKS)


def drop_hidden(text: str) -> str:
    """The text without hidden characters: zero-width characters, soft hyphens, order and direction
    marks, variation selectors, tags. A joiner stays where it changes the rendering: between emoji,
    and between letters of joining scripts (RFC 5892, appendix A)."""
    if _is_ordinary(text):
        return text
    shown = text.translate(_SHOWN)
    if "\u200c" in shown or "\u200d" in shown:
        shown = _JOINERS.sub(r"\1", shown)
        shown = _JOINERS.sub(lambda m: m[0] if _changes_shape(shown, m.start()) else "", shown)
    return _TAGS.sub(r"\1", shown)


def name_hidden(text: str) -> str:
    """The hidden characters of a text by code point and name, such as "U+200B ZERO WIDTH SPACE";
    empty without any."""
    if _is_ordinary(text):
        return ""
    shown = drop_hidden(text)
    hidden = [c for c in dict.fromkeys(text) if text.count(c) > shown.count(c)]
    names = [f"U+{ord(c):04X} {unicodedata.name(c, '')}".rstrip() for c in hidden[:_MAX_NAMED]]
    more = len(hidden) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")


def plain_layout(text: str) -> str:
    """The text without format characters (Cf), composed (NFC), with single spaces and line feeds,
    and without line feeds inside a sentence. The form used for routing."""
    shown = text if text.isascii() else text.translate(_UNFORMATTED)
    lines = _BLANK.sub(" ", _BREAK.sub("\n", _composed(shown)))
    return _WRAPPED.sub(" ", re.sub(r" ?\n ?", "\n", lines).strip())


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _changes_shape(text: str, at: int) -> bool:
    """True for a joiner that changes how its neighbours are rendered."""
    before, after = text[max(at - 8, 0) : at], text[at + 1 : at + 9]
    if text[at] == "\u200d" and _is_emoji(before[-1:]) and _is_emoji(after[:1]):
        return True
    return valid_contextj(before + text[at] + after, len(before))


def _is_emoji(char: str) -> bool:
    return char != "" and (
        unicodedata.category(char) == "So" or "\U0001f3fb" <= char <= "\U0001f3ff"
    )
