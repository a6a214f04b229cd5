"""The form of a message that is routed, and its parts."""

import random

import pytest

from scen.data.asking import Topic, wordings
from scen.model.surface import MOST_SPANS, cut_spans, routed_form

QUESTION = "When was St. Mary's Church, Leeds founded?"
BARE = QUESTION.rstrip("?")


def parts(text: str) -> list[str]:
    return [text[begin:end] for begin, end in cut_spans(text)]


@pytest.mark.parametrize(
    "text",
    [QUESTION, "Hi!\n\nWho is it?", "Q: Who is it?\nA:", "NASA", "iPhone 15?", "谁创立了这家公司"],
)
def test_ordinary_text_is_routed_as_it_is(text: str) -> None:
    assert routed_form(text) == text


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("Who\u00a0founded\u2009the club?", "Who founded the club?"),
        ("Who  founded \t the club? ", "Who founded the club?"),
        ("Who fo\u200bunded\ufeff the clu\u00adb?", "Who founded the club?"),
        ("Who founded\nthe club?", "Who founded the club?"),
        ("Who founded\u2028the club?", "Who founded the club?"),
        ("Hello\r\n\r\nWho is it?", "Hello\n\nWho is it?"),
        ("WHO FOUNDED THE CLUB?", "who founded the club?"),
        ("Good day. WHO FOUNDED THE CLUB?", "Good day. who founded the club?"),
        ("Who runs NASA?", "Who runs NASA?"),
        ("What is 2\u2075?", "What is 2\u2075?"),
    ],
)
def test_what_cannot_change_the_meaning_is_as_in_ordinary_text(text: str, form: str) -> None:
    assert routed_form(text) == form
    assert routed_form(form) == form


@pytest.mark.parametrize(
    "text",
    [
        "Hi there! {}",
        "Hello Anna, {}",
        "Dear all,\n\n{}\n\nKind regards",
        'A friend asked me: "{}" What should I say?',
        "«{}» That was the question.",
        "The card says “{}” and I do not know.",
        "Q: {}\nA:",
        "Context: It opens at 9 a.m. daily.\nQuestion: {}\nAnswer:",
        "<q>{}</q>",
        "1. Who is it?\n2. {}\n3. Why?",
        "**Front:** {}",
        "| question | {} |",
        "I read about it (e.g. on p. 3.5). {} Thanks a lot.",
        "Can you tell me - {}",
        "{} Thanks!",
        "It was late... {}",
        "```\nx = 1.5\n```\n{}",
    ],
)
def test_a_question_is_found_among_other_words(text: str) -> None:
    assert BARE in parts(text.format(QUESTION))


def test_the_whole_message_comes_first_and_marks_do_not_count() -> None:
    assert parts("  Who is it?! ")[0] == "Who is it"
    assert parts("Who is it") == parts("Who is it?")
    assert parts("?!") == ["?!"]


def test_a_single_sentence_has_one_part() -> None:
    assert parts("Who founded the U.S. Navy No. 5 unit?") == [
        "Who founded the U.S. Navy No. 5 unit"
    ]


def test_parts_are_bounded_and_questions_are_kept() -> None:
    long = "".join(f"This is sentence number {i}. " for i in range(200))
    found = parts(f"{long}Who founded it? {long}")
    assert len(found) == MOST_SPANS
    assert "Who founded it" in found


def test_parts_of_other_scripts() -> None:
    assert "谁创立了这家公司" in parts("你好。谁创立了这家公司\uff1f谢谢你")
    assert "من أسس الشركة" in parts("مرحبا بك. من أسس الشركة؟ شكرا لك")


def test_parts_lie_within_any_text() -> None:
    draw = random.Random(0)
    letters = "ab .?!,:;\"'“”«»\n-<>*|…\u200b谁1"
    for _ in range(2000):
        text = "".join(draw.choices(letters, k=draw.randrange(60)))
        spans = cut_spans(text)
        assert len(spans) <= MOST_SPANS
        assert all(0 <= begin <= end <= len(text) for begin, end in spans)
        assert len(set(spans)) == len(spans)
        assert routed_form(routed_form(text)) == routed_form(text)


def test_most_wordings_leave_the_question_in_a_part_of_its_own() -> None:
    draw, about = random.Random(0), Topic(QUESTION, "St. Mary's Church")
    for ways in (wordings("fit"), wordings("test")):
        some = [ways.ask(way, about, draw) for way in ways.ways if "typo" not in way] * 3
        forms = [routed_form(asked.text) for asked in some if asked is not None]
        hits = [any(p.casefold() == BARE.casefold() for p in parts(form)) for form in forms]
        assert sum(hits) >= 0.85 * len(hits)
