"""Tokens to text while they come: whole characters only, and nothing from a stop string on."""

from typing import Any


class IncrementalDetokenizer:
    """The text of one answer. `stop` are strings that end it and are not part of it."""

    def __init__(self, tokenizer: Any, stop: tuple[str, ...] = ()) -> None:
        self._tokenizer = tokenizer
        self._stop = stop
        self._held = max((len(text) - 1 for text in stop), default=0)
        self._ids: list[int] = []
        self._begin = 0  # tokens from here on are decoded again, for what they do to the next
        self._read = 0  # tokens up to here are text already
        self._pending = ""
        self.length = 0  # characters of whole tokens, told or held back
        self.is_stopped = False

    def push(self, token_id: int) -> str:
        """What may be told after one more token."""
        self._ids.append(token_id)
        known, text = self._decode(self._begin, self._read), self._decode(self._begin)
        if text.endswith("\ufffd"):  # perhaps part of a character
            return ""
        self._begin, self._read = self._read, len(self._ids)
        return self._tell(text[len(known) :], self._held)

    def finish(self) -> str:
        """The rest, when no more tokens come."""
        if self.is_stopped:
            return ""
        known, text = self._decode(self._begin, self._read), self._decode(self._begin)
        return self._tell(text[len(known) :], 0)

    def _tell(self, text: str, held: int) -> str:
        """The pending text up to a stop string, or less what may become one."""
        self._pending += text
        self.length += len(text)
        found = [self._pending.find(stop) for stop in self._stop]
        ends = [at for at in found if at >= 0]
        if ends:
            self.is_stopped = True
            return self._pending[: min(ends)]
        cut = len(self._pending) - held
        if cut <= 0:
            return ""
        told, self._pending = self._pending[:cut], self._pending[cut:]
        return told

    def _decode(self, begin: int, end: int | None = None) -> str:
        return str(self._tokenizer.decode(self._ids[begin:end], skip_special_tokens=True))
