"""Read ahead in a thread, so that the next wave is ready when this one is through."""

import queue
import threading
from collections.abc import Generator, Iterable
from typing import Generic, TypeVar

T = TypeVar("T")
_POLL_S = 0.2  # between two looks at whether anybody still wants more


def prefetch(items: Iterable[T], depth: int) -> Generator[T]:
    """The same items in the same order, of which up to `depth` (at least 1) are made before they
    are asked for; then the thread that makes them waits. What `items` raises is raised here, after
    the items before it. The thread ends when the iterator does."""
    belt = _Belt(items, depth)
    thread = threading.Thread(target=belt.fill, daemon=True, name="prefetch")
    thread.start()
    try:
        yield from belt.take()
    finally:
        belt.is_closed.set()
        thread.join()


class _Belt(Generic[T]):
    """Items on their way from the thread that makes them: one in a list, and at the end none, or
    the error that ended them."""

    def __init__(self, items: Iterable[T], depth: int) -> None:
        self.is_closed = threading.Event()
        self._items = items
        self._ready: queue.Queue[list[T] | BaseException] = queue.Queue(depth)

    def fill(self) -> None:
        """Make all items, unless nobody wants them any more."""
        try:
            for item in self._items:
                self._put([item])
                if self.is_closed.is_set():
                    return
            self._put([])
        except BaseException as err:  # it belongs to whoever asks for the item
            self._put(err)

    def take(self) -> Generator[T]:
        """The items as they come."""
        while True:
            found = self._ready.get()
            if isinstance(found, BaseException):
                raise found
            if not found:
                return
            yield found[0]

    def _put(self, found: list[T] | BaseException) -> None:
        while not self.is_closed.is_set():
            try:
                self._ready.put(found, timeout=_POLL_S)
            except queue.Full:
                continue
            return
