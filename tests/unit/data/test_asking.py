"""Ways of asking: every wording holds its question, and the two sets have nothing in common."""

import random
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from scen.data.asking import SURFACE_WAYS, Topic, wordings
from scen.errors import ConfigError
from scen.samples import sample_path

ABOUT = Topic("Who founded the Oslo Opera in 1999?", "Oslo Opera")
SPACES_AND_HIDDEN = re.compile("[\\s\u200b\u200e\u00ad\ufeff\u2060\u200c]+")


def texts_of(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield " ".join(re.findall(r"\w+", value.casefold()))
    else:
        for part in value.values() if isinstance(value, dict) else value:
            yield from texts_of(part)


def test_nothing_of_the_test_set_is_in_the_fit_set() -> None:
    sets = yaml.safe_load(sample_path("asking.yaml").read_text(encoding="utf-8"))
    fit, test = (set(texts_of(sets[name])) for name in ("fit", "test"))
    assert len(fit) > 900
    assert len(test) > 200
    assert not fit & test
    assert sets["fit"]["ways"].keys() == sets["test"]["ways"].keys()
    assert sets["fit"]["tasks"].keys() == sets["test"]["tasks"].keys()


@pytest.mark.parametrize("name", ["fit", "test"])
def test_every_wording_holds_its_question_once(name: str) -> None:
    about = yaml.safe_load(sample_path("asking.yaml").read_text(encoding="utf-8"))[name]
    for part in ("ways", "tasks"):
        for found in about[part].values():
            assert all(text.count("{question}") == 1 for text in found)
            assert not any("{" in text.replace("{question}", "") for text in found)
    assert all(text.count("{subject}") == 1 for text in about["subject_tasks"])
    assert all(len(pair) == 2 for turns in about["turns"] for pair in turns)


def test_every_way_can_be_asked_and_says_what_it_holds() -> None:
    draw = random.Random(0)
    for way in wordings("test").ways:
        asked = wordings("test").ask(way, ABOUT, draw)
        assert asked is not None
        assert asked.way == way
        assert asked.wants_answer
        assert asked.question in asked.text
        assert asked.messages[-1] == {"role": "user", "content": asked.text}
        if way not in SURFACE_WAYS:
            assert ABOUT.question in asked.text
    for task in wordings("test").tasks:
        asked = wordings("test").ask(task, ABOUT, draw)
        assert asked is not None
        assert not asked.wants_answer
        assert ("Oslo Opera" if asked.is_about_subject else ABOUT.question) in asked.text


def test_slips_change_what_they_say_and_no_more() -> None:
    draw, ways = random.Random(1), wordings("test")
    for _ in range(200):
        inside = ways.ask("typo inside the subject", ABOUT, draw)
        outside = ways.ask("typo outside the subject", ABOUT, draw)
        spaced = ways.ask("white space", ABOUT, draw)
        hidden = ways.ask("hidden characters", ABOUT, draw)
        assert inside
        assert outside
        assert spaced
        assert hidden
        assert "Oslo Opera" not in inside.text
        assert inside.text.startswith("Who founded the ")
        assert "Oslo Opera in 1999?" in outside.text
        assert outside.text != ABOUT.question
        assert spaced.text.split() == ABOUT.question.split()
        assert SPACES_AND_HIDDEN.sub("", hidden.text) == ABOUT.question.replace(" ", "")


def test_what_needs_a_subject_is_left_out_without_one() -> None:
    draw, about = random.Random(0), Topic("Who founded it?")
    ways = wordings("fit")
    assert ways.ask("typo inside the subject", about, draw) is None
    assert ways.ask("task about the subject", about, draw) is None


def test_an_unknown_way_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^way of asking: 'sung' is not one of lower case, "):
        wordings("fit").ask("sung", ABOUT, random.Random(0))


def test_parts_share_no_wording() -> None:
    draw = random.Random(0)
    first, second = (wordings("fit").part(i, 2) for i in (0, 1))
    for way in ("greeting", "task: translate"):
        told = [
            {getattr(part.ask(way, ABOUT, draw), "text", None) for _ in range(400)}
            for part in (first, second)
        ]
        assert not told[0] & told[1]
        assert len(told[0]) > 10


def test_the_same_seed_gives_the_same_message() -> None:
    found = [wordings("test").ask("several", ABOUT, random.Random(5)) for _ in range(2)]
    assert found[0] == found[1]
