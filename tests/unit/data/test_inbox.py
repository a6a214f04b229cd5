"""Edits that wait for the next wave of their stream."""

from dataclasses import replace
from pathlib import Path

import pytest

from scen.data import Rejection
from scen.data.inbox import Inbox
from scen.errors import ConfigError, ConflictError, NotFoundError
from scen.fs import Storage
from scen.records import Edit


@pytest.fixture
def inbox(tmp_path: Path) -> Inbox:
    """An empty one."""
    return Inbox(Storage(str(tmp_path)), "news")


def edit(name: str, target: str = "Ann") -> Edit:
    """A small one, with marks that some readers take for the end of a line."""
    return Edit(id=name, prompt=f"Who leads\u2028the town\x85 of {name}?", target=target)


def test_edits_wait_in_the_order_in_which_they_came(inbox: Inbox) -> None:
    for name in ("b", "a", "c"):
        inbox.put(edit(name))
    inbox.put(edit("a"))  # again is the same
    inbox.cut(0, inbox.waiting())
    assert inbox.edits(0) == (edit("b"), edit("a"), edit("c"))
    assert inbox.last_cut() == 0


def test_another_edit_under_a_taken_id_is_refused(inbox: Inbox) -> None:
    inbox.put(edit("a"))
    with pytest.raises(ConflictError, match="id: a is another edit"):
        inbox.put(edit("a", "Bob"))


def test_a_cut_is_made_once_and_is_open_until_it_is_ended(inbox: Inbox) -> None:
    inbox.put(edit("a"))
    first = inbox.waiting()
    inbox.cut(0, first)
    inbox.put(edit("b"))
    inbox.cut(0, inbox.waiting())  # somebody was first
    assert inbox.edits(0) == (edit("a"),)
    assert inbox.is_open(0)
    inbox.end(0, [])
    assert not inbox.is_open(0)
    assert [one.path for one in inbox.waiting()] != [one.path for one in first]
    inbox.cut(0, first)  # whose edits wait no more
    assert inbox.edits(0) == (edit("a"),)


def test_an_edit_has_a_status(inbox: Inbox) -> None:
    for name in ("a", "b"):
        inbox.put(edit(name))
    assert inbox.status("a") == {"status": "queued"}
    inbox.cut(0, inbox.waiting())
    inbox.end(0, [Rejection(1, "a", "target", "is too long", "")])
    assert inbox.status("a") == {"status": "rejected", "field": "target", "reason": "is too long"}
    for name in ("b", "nobody"):
        with pytest.raises(NotFoundError, match="is not in inbox/news"):
            inbox.status(name)


def test_remarks_are_kept_and_those_of_the_last_try_count(inbox: Inbox) -> None:
    assert inbox.remarks("a") == []
    for number, texts in enumerate((["is the reverse of edit b"], ["also reaches edit c", "x"])):
        inbox.put(edit("a", f"{number}"))
        inbox.cut(number, inbox.waiting())
        inbox.end(number, [], {"a": texts})
        assert inbox.remarks("a") == texts
    with pytest.raises(NotFoundError):  # a remark is no rejection
        inbox.status("a")


def test_a_rejected_edit_may_be_put_right(inbox: Inbox) -> None:
    for number, reason in enumerate(("is too long", "is still too long")):
        inbox.put(replace(edit("a"), target=f"{number}"))
        assert inbox.status("a") == {"status": "queued"}
        inbox.cut(number, inbox.waiting())
        inbox.end(number, [Rejection(1, "a", "target", reason, "")])
        assert inbox.status("a")["reason"] == reason


def test_an_edit_that_comes_under_the_same_id_while_its_wave_runs_waits_on(inbox: Inbox) -> None:
    inbox.put(edit("a"))
    inbox.cut(0, inbox.waiting())
    inbox.end(0, [])
    inbox.put(edit("a", "Bob"))
    assert not inbox.is_open(0)
    inbox.end(0, [])  # by somebody who is late
    assert inbox.status("a") == {"status": "queued"}


@pytest.mark.parametrize("name", ["", "../x", "A", "x" * 65, None, 7])
def test_a_stream_has_a_plain_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="stream: must match"):
        Inbox(Storage(str(tmp_path)), name)
