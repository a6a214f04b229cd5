"""When a follower looks at the store again: each so often, or when a registry tells of news."""

import threading
import time
from typing import Literal, Protocol

_CALM_S = 2.0  # the least time between two looks where a registry tells of news
_SILENT_S = 30.0  # until one that said nothing is asked again


class News(Protocol):
    """Whoever knows of new versions first."""

    def wait(self, version: int, timeout_s: float) -> int | None:
        """The newest version, as soon as it is above `version`, or after a time; None where
        nothing can be told. Raises nothing."""
        ...


class Pace:
    """Each `poll_s` seconds where there are no news or they cannot be told, such as by a registry
    that is gone or hangs; else when there are some, and every few seconds for all that is not
    news, such as which version is held."""

    def __init__(self, poll_s: float, news: News | None = None) -> None:
        self._poll_s = poll_s
        self._news = news
        self._newest = -1
        self._is_told = False
        self._ask_at = 0.0

    @property
    def follows(self) -> Literal["registry", "ledger"]:
        """What the follower was last woken by."""
        return "registry" if self._is_told else "ledger"

    def rest(self, stop: threading.Event) -> None:
        """Return when it is time to look again, or to stop."""
        until = time.monotonic() + max(self._poll_s, _CALM_S)
        while self._news is not None and time.monotonic() >= self._ask_at:
            told = self._news.wait(self._newest, _CALM_S)
            self._is_told = told is not None
            if told is None:
                self._ask_at = time.monotonic() + _SILENT_S
                break
            is_new, self._newest = told > self._newest, told
            if is_new or stop.is_set() or time.monotonic() >= until:
                return
        stop.wait(self._poll_s)
