"""Tokenises user text so that only the template's own markers become control tokens.

A control token in a message could end a turn, open another role or hide the rest. Text that
contains the name of one is therefore tokenised with a copy of the tokenizer in which every control
token has another name (a stand-in that occurs in no text); the markers that the template wrote are
replaced by these stand-ins. All other text is tokenised as usual.
"""

import functools
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer

from scen.text import drop_hidden

Offsets = Sequence[tuple[int, int]]

# Unicode reserves noncharacters for internal use, so they do not occur in interchanged text.
_DIGITS = [chr(code) for code in range(0xFDD0, 0xFDEE)]
_ESCAPE, _END = "\ufdee", "\ufdef"
_RESERVED = re.compile("[\ufdd0-\ufdef]")

# Added tokens that are not flagged as special but act as control tokens ...
_MARKER = re.compile(r"<[|\uff5c].*[|\uff5c]>|<</?\w+>>|</?[\w▁.:-]+>|\[/?[A-Z0-9_▁]+\]", re.DOTALL)
# ... except HTML tags, which are ordinary text.
_HTML = re.compile(
    r"</?(?:a|abbr|article|aside|audio|b|blockquote|body|br|button|caption|cite|code|col|dd|del|"
    r"details|div|dl|dt|em|figure|footer|form|h[1-6]|head|header|hr|html|i|img|input|ins|kbd|li|"
    r"link|main|mark|math|meta|nav|ol|option|p|pre|q|s|samp|script|section|select|small|span|"
    r"strong|style|sub|summary|sup|svg|table|tbody|td|textarea|tfoot|th|thead|title|tr|u|ul|var|"
    r"video)>"
)


def control_tokens(tokenizer: Any) -> dict[str, int]:
    """The control tokens of a tokenizer, as ids by name: its special tokens, and added tokens that
    look like a marker or occur in its chat template. Whole words and white space are text."""
    template = str(getattr(tokenizer, "chat_template", None) or "")
    special = set(tokenizer.all_special_ids)
    tokens = {}
    for token_id, token in tokenizer.added_tokens_decoder.items():
        name = token.content.strip()
        if len(name) < 3 or name.isalnum():
            continue
        is_marker = _MARKER.fullmatch(name) and not _HTML.fullmatch(name)
        if token.special or token_id in special or is_marker or (name in template):
            tokens[token.content] = token_id
    return tokens


class UserText:
    """Tokenises rendered text with a fast tokenizer, keeping user text free of control tokens."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.control = control_tokens(tokenizer)
        self._control_ids = {i for i in self.control.values() if i != tokenizer.unk_token_id}
        template = str(getattr(tokenizer, "chat_template", None) or "")
        added = tokenizer.added_tokens_decoder
        # Templates look for these to remove the reasoning from earlier answers.
        parsed = {n for n, i in self.control.items() if not added[i].special and n in template}
        self._any = _one_of(self.control)
        self._any_answer = _one_of(self.control.keys() - parsed)
        self._folded = _one_of({_folded(name) for name in self.control})

    def escape(self, text: str, role: str = "user") -> str:
        """The text for a template to render: names of control tokens are broken up, noncharacters
        replaced. In an assistant's turn, names of non-special tokens that the template looks for,
        such as `</think>`, stay intact."""
        escaped = text if text.isascii() else _RESERVED.sub("\ufffd", text)
        if not self.holds_names(escaped):
            return escaped
        pattern = self._any_answer if role == "assistant" else self._any
        while pattern.search(escaped):
            escaped = pattern.sub(lambda m: m[0][:1] + _ESCAPE + m[0][1:], escaped)
        if _ESCAPE in escaped or role == "assistant":
            return escaped
        # A form that the normaliser of the tokenizer may turn into a name, such as full width.
        return re.sub(r"(?<=\S)", _ESCAPE, escaped, count=1)

    def encode(self, text: str, add_special_tokens: bool) -> tuple[list[int], Offsets]:
        """Token ids of a rendered text with escaped parts, and their spans in `unescape(text)`."""
        if _ESCAPE not in text:
            encoded = self._tokenizer(
                text, add_special_tokens=add_special_tokens, return_offsets_mapping=True
            )
            return encoded["input_ids"], encoded["offset_mapping"]
        marked = self._any.sub(lambda m: self._stand_ins[m[0]], text)
        encoding = self._guarded.encode(unescape(marked), add_special_tokens=add_special_tokens)
        return encoding.ids, encoding.offsets

    def holds_names(self, text: str) -> bool:
        """True if a text contains the name of a control token, possibly in compatibility forms of
        its letters."""
        return bool(self._folded.search(_folded(text)))

    def control_names(self, text: str) -> list[str]:
        """Names of the control tokens that a text contains."""
        if not self.holds_names(text):
            return []
        ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        names = [self._tokenizer.convert_ids_to_tokens(i) for i in ids if i in self._control_ids]
        return list(dict.fromkeys([*names, *self._any.findall(text)]))

    @functools.cached_property
    def _stand_ins(self) -> Mapping[str, str]:
        """For each control token, a stand-in of the same length, so that offsets stay valid."""
        names: dict[str, str] = {}
        counts: dict[int, int] = {}
        for name in self.control:
            number = counts.get(len(name), 0)
            counts[len(name)] = number + 1
            digits = []
            for _ in name[1:]:
                number, digit = divmod(number, len(_DIGITS))
                digits.append(_DIGITS[digit])
            assert number == 0, "more control tokens of one length than stand-ins"
            names[name] = "".join(digits) + _END
        return names

    @functools.cached_property
    def _guarded(self) -> Tokenizer:
        """The tokenizer with stand-ins for the names of control tokens."""
        spec = json.loads(self._tokenizer.backend_tokenizer.to_str())
        names, model = self._stand_ins, spec["model"]
        if isinstance(model["vocab"], list):  # a unigram model
            model["vocab"] = [[names.get(piece, piece), score] for piece, score in model["vocab"]]
        else:
            model["vocab"] = {names.get(piece, piece): i for piece, i in model["vocab"].items()}
        if model.get("unk_token") in names:
            model["unk_token"] = names[model["unk_token"]]
        for token in spec["added_tokens"]:
            token["content"] = names.get(token["content"], token["content"])
        guarded = Tokenizer.from_str(json.dumps(spec))
        control = [token for token in spec["added_tokens"] if token["id"] in self.control.values()]
        dropped = [t for t in control if t["id"] not in guarded.encode(t["content"]).ids]
        for token in dropped:
            token["normalized"] = False  # the normaliser would drop the stand-in
        return Tokenizer.from_str(json.dumps(spec)) if dropped else guarded


def unescape(text: str) -> str:
    """The text without the characters that `UserText.escape` inserted."""
    return text.replace(_ESCAPE, "")


def _one_of(names: Sequence[str] | set[str] | Mapping[str, int]) -> re.Pattern[str]:
    longest_first = sorted(names, key=lambda name: (-len(name), name))
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


def _folded(text: str) -> str:
    """The text without anything that a normaliser may remove before it looks for names."""
    if text.isascii():
        return text.casefold()
    letters = unicodedata.normalize("NFKD", drop_hidden(text))
    return "".join(c for c in letters if not unicodedata.combining(c)).casefold()


_WORD_MARKS = ("\u0120", "\u2581")  # of tokens that begin a word: byte-level BPE, SentencePiece


def vocabulary(tokenizer: Any) -> tuple[str, ...]:
    """The words that are one token, case-folded, by their number, which follows their frequency in
    the text that a BPE tokenizer was made from; empty if no token is marked as a word."""
    numbered = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    words = (token[1:].casefold() for token, _ in numbered if token.startswith(_WORD_MARKS))
    return tuple(dict.fromkeys(word for word in words if len(word) > 1 and word.isalpha()))
