"""Token ids to text and bytes: whole characters only, and nothing from a stop string on."""

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from tokenizers.decoders import ByteLevel, DecodeStream
from transformers.convert_slow_tokenizer import bytes_to_unicode

_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")  # byte fallback of SentencePiece


class IncrementalDetokenizer:
    """The text of one answer. `stop` are strings that end it and are not part of it."""

    def __init__(self, tokenizer: Any, stop: tuple[str, ...] = ()) -> None:
        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)
        self._stop = stop
        self._held = max((len(text) - 1 for text in stop), default=0)
        self._unread: list[int] = []  # tokens of a character that is not whole yet
        self._pending = ""
        self.length = 0  # characters of whole tokens, returned or held back
        self.is_stopped = False

    def push(self, token_id: int) -> str:
        """The text that is final after one more token; empty within a character."""
        self._unread.append(token_id)
        text = self._stream.step(self._tokenizer.backend_tokenizer, token_id)
        if text is None:
            return ""
        self._unread.clear()
        return self._release(text, self._held)

    def finish(self) -> str:
        """The rest, when no more tokens come; a broken character becomes U+FFFD."""
        if self.is_stopped:
            return ""
        rest = self._tokenizer.decode(self._unread, skip_special_tokens=True)
        return self._release(str(rest), 0)

    def _release(self, text: str, held: int) -> str:
        """The pending text up to a stop string, or less what may become one."""
        self._pending += text
        self.length += len(text)
        ends = [at for at in map(self._pending.find, self._stop) if at >= 0]
        if ends:
            self.is_stopped = True
            return self._pending[: min(ends)]
        cut = max(0, len(self._pending) - held)
        released, self._pending = self._pending[:cut], self._pending[cut:]
        return released


def token_offsets(tokenizer: Any, ids: Sequence[int]) -> tuple[str, list[int]]:
    """The text of token ids, and how many of its characters come before each."""
    detokenizer = IncrementalDetokenizer(tokenizer)
    text, offsets = "", []
    for token_id in ids:
        offsets.append(detokenizer.length)
        text += detokenizer.push(token_id)
    return text + detokenizer.finish(), offsets


def token_bytes(tokenizer: Any, token_id: int) -> bytes:
    """The bytes that a token stands for, which may be part of a character."""
    piece = str(tokenizer.convert_ids_to_tokens(token_id))
    if token_id in tokenizer.added_tokens_decoder:
        return piece.encode()
    if isinstance(tokenizer.backend_tokenizer.decoder, ByteLevel):
        return bytes(_byte_of()[letter] for letter in piece)
    match = _BYTE_PIECE.fullmatch(piece)
    return bytes.fromhex(match[1]) if match else piece.replace("\u2581", " ").encode()


def token_text(data: bytes) -> str:
    r"""A token's bytes as text; `bytes:\xf0\x9f` for part of a character, as OpenAI writes it."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


@cache
def _byte_of() -> dict[str, int]:
    """The byte that each letter of byte-level BPE stands for."""
    return {letter: byte for byte, letter in bytes_to_unicode().items()}
