"""Reading ahead changes nothing but when things are read."""

import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scen.pipeline.stream import prefetch


def wait_until(limit: int, made: list[int]) -> None:
    """Until so many are made, or a while has passed."""
    end = time.monotonic() + 5
    while len(made) < limit and time.monotonic() < end:
        time.sleep(0.01)


@given(st.lists(st.integers(), max_size=20), st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_the_same_items_in_the_same_order(items: list[int], depth: int) -> None:
    assert list(prefetch(items, depth)) == items


def test_items_are_made_ahead_and_no_further() -> None:
    made: list[int] = []

    def make() -> Iterator[int]:
        for i in range(100):
            made.append(i)
            yield i

    stream = prefetch(make(), 2)
    assert next(stream) == 0
    wait_until(4, made)  # one is out, two wait, one is in the thread's hand
    time.sleep(0.1)
    assert len(made) == 4
    assert [next(stream), next(stream)] == [1, 2]
    wait_until(6, made)
    assert len(made) == 6
    stream.close()


def test_an_error_comes_after_the_items_before_it() -> None:
    def make() -> Iterator[int]:
        yield 1
        raise OSError("torn")

    stream = prefetch(make(), 3)
    assert next(stream) == 1
    with pytest.raises(OSError, match="torn"):
        next(stream)


def test_the_thread_ends_with_the_iterator() -> None:
    before = threading.active_count()
    stream = prefetch(iter(range(1000)), 1)
    assert next(stream) == 0
    assert threading.active_count() == before + 1
    stream.close()
    assert threading.active_count() == before
