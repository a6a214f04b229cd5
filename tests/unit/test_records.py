"""Edits as values: round trips, digests that depend on content alone, and prompt forms."""

import json
from dataclasses import FrozenInstanceError, fields, replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scen.records import Edit, Rephrase, digest_bytes, digest_json, edit_from_dict, edit_to_dict
from scen.text import normalise

TEXT = st.text(max_size=20)
MOMENT = st.none() | st.datetimes(timezones=st.none() | st.just(UTC) | st.timezones())
EDITS = st.builds(
    Edit,
    id=TEXT,
    prompt=TEXT,
    target=TEXT,
    subject=st.none() | TEXT,
    rephrases=st.lists(st.builds(Rephrase, TEXT, TEXT), max_size=2).map(tuple),
    near_misses=st.lists(TEXT, max_size=2).map(tuple),
    locality_prompts=st.lists(TEXT, max_size=2).map(tuple),
    source=st.none() | TEXT,
    author=st.none() | TEXT,
    valid_from=MOMENT,
    valid_until=MOMENT,
    metadata=st.dictionaries(TEXT, TEXT, max_size=2),
)
FULL = Edit(
    id="e1",
    prompt="Wer gründete Čačak?",
    target="北京",
    subject="Čačak",
    rephrases=(Rephrase("Čačak wurde von wem gegründet?", "orig"),),
    near_misses=("Wo liegt Čačak?",),
    locality_prompts=("Wer ist das?",),
    source="news",
    author="me",
    valid_from=datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=-3))),
    valid_until=datetime(2027, 1, 2),
    metadata={"relation": "founder"},
)
OTHERS: dict[str, Any] = {
    "id": "e2",
    "prompt": "Wer gründete Čačak",
    "target": "北京 ",
    "subject": None,
    "rephrases": (Rephrase("Čačak wurde von wem gegründet?", "made"),),
    "near_misses": (),
    "locality_prompts": ("Wer ist das?", ""),
    "source": "News",
    "author": None,
    "valid_from": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    "valid_until": None,
    "metadata": {},
}


@given(EDITS)
@settings(max_examples=60, deadline=None)
def test_an_edit_survives_json(edit: Edit) -> None:
    text = json.dumps(edit_to_dict(edit), ensure_ascii=False)
    found = edit_from_dict(json.loads(text))
    assert edit_to_dict(found) == edit_to_dict(edit)
    assert found.digest == edit.digest
    moments = (found.valid_from, found.valid_until)
    assert [m and m.isoformat() for m in moments] == [
        m and m.isoformat() for m in (edit.valid_from, edit.valid_until)
    ]


def test_an_edit_is_frozen_and_comes_back_equal() -> None:
    assert edit_from_dict(edit_to_dict(FULL)) == FULL
    assert edit_from_dict({"id": "a", "prompt": "b", "target": "c"}) == Edit("a", "b", "c")
    with pytest.raises(FrozenInstanceError):
        FULL.target = "x"  # type: ignore[misc]


def test_every_field_counts_in_the_digest() -> None:
    assert set(OTHERS) == {field.name for field in fields(Edit)}
    digests = {replace(FULL, **{name: value}).digest for name, value in OTHERS.items()}
    assert len(digests | {FULL.digest}) == len(OTHERS) + 1


def test_a_digest_is_the_same_in_every_process_and_release() -> None:
    """Wave keys and the ledger hold these: another value would make committed edits new ones."""
    assert FULL.digest == "e25414907845c48fa73fed7354096dfd0eee4f14653cc480a439b13a445d30a3"
    assert FULL.seed == 5021058866657771161
    assert replace(FULL, metadata={"b": "1", "a": "2"}).digest == (
        replace(FULL, metadata={"a": "2", "b": "1"}).digest
    )
    assert digest_bytes(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    canonical = '{"a":null,"b":[1,"é"]}'.encode()
    assert digest_json({"b": [1, "é"], "a": None}) == digest_bytes(canonical)


@given(TEXT)
@settings(max_examples=30, deadline=None)
def test_a_seed_has_63_bits_and_comes_from_the_id_alone(edit_id: str) -> None:
    seed = Edit(edit_id, "a", "b").seed
    assert 0 <= seed < 2**63
    assert Edit(edit_id, "other", "words").seed == seed


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("  Who   is\tthis?? ", "who is this"),
        ("WHO IS THIS", "who is this"),
        ("Straße!", "strasse"),
        ("ﬁve ①", "five ①"),
        ("Who is Jr. ?", "who is jr"),
        ("?!", ""),
    ],
)
def test_normalise(text: str, form: str) -> None:
    assert normalise(text) == form
    assert normalise(form) == form


@pytest.mark.parametrize(
    ("subject", "metadata", "relation"),
    [
        ("Oslo", {}, "who founded {}"),
        (" OSLO?", {}, "who founded {}"),
        ("Bergen", {}, "who founded oslo"),
        (None, {}, None),
        ("", {}, None),
        ("Oslo", {"relation": "founder"}, "founder"),
    ],
)
def test_relation(subject: str | None, metadata: dict[str, str], relation: str | None) -> None:
    edit = Edit("e", "Who founded Oslo?", "Harald", subject=subject, metadata=metadata)
    assert edit.relation == relation


def test_a_subject_of_end_marks_alone_gives_no_relation() -> None:
    assert Edit("a", "Who?", "t", subject="?").relation is None
