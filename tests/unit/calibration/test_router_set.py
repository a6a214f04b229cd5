"""The questions that a router is fitted on are about the edits that they say they are."""

import random
from collections import Counter
from dataclasses import replace

import pytest

from scen.calibration.router_set import (
    Asking,
    RouterSet,
    build_router_set,
    join_router_sets,
    make_namesakes,
    make_near_misses,
    make_rephrases,
    names_subject,
    question_templates,
)
from scen.data.asking import wordings
from scen.records import Edit, Rephrase
from scen.text import normalise


@pytest.fixture
def facts() -> list[Edit]:
    """Four edits of two relations, one without a subject."""

    def edit(
        i: str, prompt: str, subject: str | None, relation: str | None, **more: object
    ) -> Edit:
        metadata = {"relation": relation} if relation else {}
        return Edit(i, prompt, "x", subject, metadata=metadata, **more)  # type: ignore[arg-type]

    return [
        edit(
            "a",
            "Who founded Oslo?",
            "Oslo",
            "founder",
            rephrases=(Rephrase("By whom was Oslo founded?", "orig"),),
            near_misses=("Where does oslo lie?", "Who founded Bergen?"),
        ),
        edit("b", "When was Ghent built?", "Ghent", "year"),
        edit("c", "The founder of Turku was", "Turku", "founder"),
        edit("d", "Is it late?", None, None, rephrases=(Rephrase("Late, is it?", "web"),)),
    ]


@pytest.fixture
def built(facts: list[Edit]) -> RouterSet:
    return build_router_set(facts, ["Why is grass green?", "How far is Mars?"])


def test_the_prompts_come_first_and_in_order(built: RouterSet, facts: list[Edit]) -> None:
    first = built.questions[: built.num_edits]
    assert [(q.text, q.edit) for q in first] == [(e.prompt, i) for i, e in enumerate(facts)]
    assert {q.kind for q in first} == {"prompt"}
    assert "prompt" not in {q.kind for q in built.questions[built.num_edits :]}
    assert built.texts == [q.text for q in built.questions]


def test_what_is_given_is_taken_with_its_edit(built: RouterSet) -> None:
    rows = [(q.text, q.kind, q.edit, q.source) for q in built.questions]
    assert ("By whom was Oslo founded?", "rephrase", 0, "orig") in rows
    assert ("Late, is it?", "rephrase", 3, "web") in rows
    assert [row for row in rows if row[1] == "unrelated"] == [
        ("Why is grass green?", "unrelated", -1, "given"),
        ("How far is Mars?", "unrelated", -1, "given"),
    ]


def test_a_near_miss_says_whether_it_names_the_subject(built: RouterSet) -> None:
    given = {q.text: q.is_subject for q in built.questions if q.kind == "near_miss"}
    assert given == {"Where does oslo lie?": True, "Who founded Bergen?": False}
    assert not any(q.is_subject for q in built.questions if q.kind == "unrelated")


def test_relations_are_numbered(built: RouterSet) -> None:
    assert built.relations[0] == built.relations[2]
    assert len({built.relations[i] for i in (0, 1, 3)}) == 3


def test_made_near_misses_ask_something_else_of_the_same_subject(built: RouterSet) -> None:
    made = {
        i: {q.text for q in built.questions if q.kind == "made_near_miss" and q.edit == i}
        for i in range(4)
    }
    assert made[0] == {"When was Oslo built?"}
    assert made[2] == {"When was Turku built?"}
    assert made[1]
    assert made[1] <= {"Who founded Ghent?", "The founder of Ghent was"}
    assert not made[3]


def test_the_seed_decides_which_are_made(facts: list[Edit]) -> None:
    many = [
        Edit(f"{i}", f"What {i} is {i}land?", "x", f"{i}land", metadata={"relation": f"r{i}"})
        for i in range(20)
    ]
    first, again, other = (build_router_set([*facts, *many], [], seed) for seed in (0, 0, 1))
    assert first == again
    assert first.texts != other.texts


def test_templates_have_a_gap_for_the_subject(facts: list[Edit]) -> None:
    assert question_templates(facts) == {
        "founder": ["Who founded {}?", "The founder of {} was"],
        "year": ["When was {} built?"],
    }


@pytest.mark.parametrize("count", [1, 3])
def test_no_more_near_misses_than_are_wanted(facts: list[Edit], count: int) -> None:
    templates = {"founder": ["1 {}"], "r": [f"{i} {{}}" for i in range(50)]}
    made = make_near_misses(facts[0], templates, random.Random(0), count)
    assert len(made) == count
    assert all(text.endswith(" Oslo") and text != "1 Oslo" for text in made)


def test_one_relation_alone_has_no_near_misses(facts: list[Edit]) -> None:
    assert make_near_misses(facts[0], {"founder": ["Who founded {}?"]}, random.Random(0)) == []


def test_made_rephrases_use_the_words_of_others_first(facts: list[Edit]) -> None:
    made = make_rephrases(facts[0], question_templates(facts), count=9)
    assert made[0] == Rephrase("The founder of Oslo was", "made")
    assert all(normalise(r.text) != normalise(facts[0].prompt) for r in made)
    assert all("oslo" in r.text.lower() for r in made)
    assert make_rephrases(facts[0], question_templates(facts), count=2) == made[:2]


def test_an_edit_without_subject_has_rephrases_in_plain_frames(facts: list[Edit]) -> None:
    made = [r.text for r in make_rephrases(facts[3], question_templates(facts))]
    assert made == ["Please tell me: Is it late?", "Is it late, do you know?"]


def test_a_subject_is_named_whatever_its_case(facts: list[Edit]) -> None:
    assert names_subject("what of OSLO now", facts[0])
    assert not names_subject("what of Bergen now", facts[0])
    assert not names_subject("anything", facts[3])


def test_what_asks_for_another_edit_is_no_near_miss() -> None:
    def edit(i: str, prompt: str, relation: str, near: tuple[str, ...] = ()) -> Edit:
        metadata = {"relation": relation}
        return Edit(i, prompt, "x", "Oslo", near_misses=near, metadata=metadata)

    edits = [
        edit("a", "Who founded Oslo?", "founder", ("how old is oslo", "Where does Oslo lie?")),
        edit("b", "How old is Oslo?", "age"),
        Edit("c", "Who rules Ghent?", "x", "Ghent", metadata={"relation": "ruler"}),
    ]
    found = build_router_set(edits, [])
    near = [(q.text, q.edit) for q in found.questions if q.kind == "near_miss"]
    assert near == [("Where does Oslo lie?", 0)]
    made = {q.text for q in found.questions if q.kind == "made_near_miss" and q.edit < 2}
    assert made == {"Who rules Oslo?"}  # not the other edit's question


def test_sets_of_two_sources_are_joined_and_know_nothing_of_each_other(
    facts: list[Edit],
) -> None:
    one, two = build_router_set(facts, ["Why is grass green?"]), build_router_set(facts[:2], [])
    both = join_router_sets([one, two])
    assert both.num_edits == 6
    assert [q.edit for q in both.questions[:6]] == [0, 1, 2, 3, 4, 5]
    assert {q.kind for q in both.questions[:6]} == {"prompt"}
    assert both.relations[:4] == one.relations
    assert set(both.relations[4:]).isdisjoint(one.relations)
    assert len(both.questions) == len(one.questions) + len(two.questions)
    (talk,) = [q for q in both.questions if q.kind == "unrelated"]
    assert talk.edit == -1
    late = [q.text for q in both.questions if q.edit == 4]
    assert sorted(late) == sorted(q.text for q in two.questions if q.edit == 0)


def test_ways_of_many_wordings_are_asked_more_often(facts: list[Edit]) -> None:
    many = [replace(fact, id=f"{fact.id}{i}") for i in range(100) for fact in facts]
    built = build_router_set(many, (), asking=Asking(wordings("fit")))
    asked = Counter(q.source for q in built.questions if q.kind == "asked")
    often, seldom = (
        sum(asked[way] for way in ways) / len(ways)
        for ways in (("order", "quote", "frame", "lead"), ("greeting", "thanks", "prose_after"))
    )
    assert 1.5 < often / seldom < 2.5


def test_a_namesake_shares_half_of_the_subject_s_words() -> None:
    names = ["Maria Tolnai", "Jan van Eyck", "Oslo"]
    edits = [
        Edit(name, f"What gender is {name}?", "x", name, metadata={"relation": "gender"})
        for name in names
    ]
    templates = {"gender": ["The gender of {} is"]}
    texts = make_namesakes(edits[0], {"gender": names}, templates, random.Random(0), 20)
    assert len(texts) > 3
    for text in texts:
        assert ("Maria" in text) != ("Tolnai" in text)
        assert text.startswith(("What gender is", "The gender of"))
    [longer, *_] = make_namesakes(edits[2], {"gender": names}, templates, random.Random(0))
    assert "Oslo" in longer
    assert make_namesakes(edits[0], {"gender": names[:1]}, templates, random.Random(0)) == []
    built = build_router_set(edits, (), asking=Asking(wordings("fit")))
    kinds = [q for q in built.questions if q.kind == "namesake"]
    assert {q.edit for q in kinds} == {0, 1, 2}
    assert not any(q.is_subject for q in kinds)
