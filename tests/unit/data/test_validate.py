""""""

from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest

from scen.data import Limits, Rejection, Validator
from scen.data.rows import RawRow
from scen.records import Edit, Rephrase

GOOD: dict[str, Any] = {"id": "e1", "prompt": "Who built the mill?", "target": "Ann Miller"}


def check(validator: Validator, number: int = 1, **fields: Any) -> Edit | Rejection:
    values = {k: v for k, v in {**GOOD, **fields}.items() if v is not None}
    return validator.check(RawRow(number, values, fields=values))


def words(text: str) -> list[int]:
    """One id a word; 0 for a word with a digit, none at all for dashes."""
    kept = text.replace("-", " ").split()
    return [0 if any(map(str.isdigit, word)) else len(word) for word in kept]


@pytest.mark.parametrize(
    ("fields", "field", "reason"),
    [
        ({"id": 7}, "id", "must be a string, not a number: put it in quotes"),
        ({"id": ""}, "id", "must be 1 to 128 of the characters"),
        ({"id": "a b"}, "id", "must be 1 to 128"),
        ({"id": "-a"}, "id", "start with a letter or digit"),
        ({"id": "a" * 129}, "id", "must be 1 to 128"),
        ({"id": "a\n"}, "id", "must be 1 to 128"),
        ({"prompt": None}, "prompt", "is missing: give the prompt as a string"),
        ({"prompt": 1.5}, "prompt", "must be a string, not a number"),
        ({"prompt": ["x"]}, "prompt", "must be a string, not a list"),
        ({"prompt": ""}, "prompt", "is empty"),
        ({"prompt": " \n\t "}, "prompt", "is empty"),
        ({"prompt": "\u200b"}, "prompt", "is empty"),
        ({"prompt": "?!"}, "prompt", "is empty but for its end mark"),
        ({"prompt": "x" * 8001}, "prompt", "is 8001 characters long, the limit is 8000"),
        ({"prompt": "a\ud83d"}, "prompt", "U+D83D, half of a surrogate pair"),
        ({"prompt": "caf\ufffd"}, "prompt", "U+FFFD, the mark of text lost"),
        ({"prompt": "a\x00b"}, "prompt", "U+0000, which has no place in text: remove it"),
        ({"prompt": "a\rb"}, "prompt", "U+000D"),
        ({"prompt": "caf\x82"}, "prompt", "U+0082"),
        ({"prompt": "a\uffff"}, "prompt", "U+FFFF"),
        ({"target": None}, "target", "is missing: give the target as a string"),
        ({"target": True}, "target", "must be a string, not true or false"),
        ({"target": {}}, "target", "must be a string, not an object"),
        ({"target": ""}, "target", "is empty"),
        ({"target": "x" * 2001}, "target", "is 2001 characters long, the limit is 2000"),
        ({"target": "a\udc00"}, "target", "U+DC00"),
        ({"subject": 3}, "subject", "must be a string"),
        ({"subject": "a\x1b"}, "subject", "U+001B"),
        ({"rephrases": "who?"}, "rephrases", "must be a list, not a string"),
        ({"rephrases": ["who?", ""]}, "rephrases[1]", "is empty"),
        ({"rephrases": [{"source": "x"}]}, "rephrases[0]", "is missing"),
        ({"rephrases": [{"text": "a", "src": "x"}]}, "rephrases[0]", "use text and source only"),
        ({"rephrases": [{"text": "a", "source": 1}]}, "rephrases[0].source", "must be a string"),
        ({"near_misses": [None]}, "near_misses[0]", "is missing"),
        ({"near_misses": {"a": 1}}, "near_misses", "must be a list, not an object"),
        ({"locality_prompts": ["a", 2]}, "locality_prompts[1]", "must be a string"),
        ({"source": []}, "source", "must be a string"),
        ({"author": 0}, "author", "must be a string"),
        ({"valid_from": "yesterday"}, "valid_from", "is no ISO 8601 time"),
        ({"valid_from": 1_700_000_000}, "valid_from", "must be a time, not a number"),
        ({"valid_until": "0001-01-01T00:00:00+14:00"}, "valid_until", "is no ISO 8601 time"),
        (
            {"valid_from": "2026-01-02", "valid_until": "2026-01-02T00:00:00Z"},
            "valid_until",
            "is not after valid_from",
        ),
        ({"metadata": "x"}, "metadata", "must be an object, not a string"),
        ({"metadata": {"a": "\ud800"}}, "metadata.a", "U+D800"),
        ({"metadata": {"a": ["\ud800"]}}, "metadata.a", "U+D800"),
    ],
)
def test_every_bad_field_is_rejected_with_its_reason(
    fields: dict[str, Any], field: str, reason: str
) -> None:
    validator = Validator()
    result = check(validator, 9, **fields)
    assert isinstance(result, Rejection)
    assert (result.row, result.field) == (9, field)
    assert reason in result.reason
    result.raw.encode()
    # a rejected row leaves no trace: the good one with the same id and prompt is taken
    assert isinstance(check(validator), Edit)


@pytest.mark.parametrize(
    ("fields", "field", "reason"),
    [
        ({"target": "--"}, "target", "gives no token"),
        ({"target": "in 1850"}, "target", "no token for"),
        ({"target": "a b c d"}, "target", "is 4 tokens long, the limit is 3"),
        ({"prompt": "a b c d e f"}, "prompt", "is 6 tokens long, the limit is 5"),
        ({"prompt": "--"}, "prompt", "gives no token"),
    ],
)
def test_what_the_tokenizer_cannot_take_is_rejected(
    fields: dict[str, Any], field: str, reason: str
) -> None:
    limits = Limits(max_prompt_tokens=5, max_target_tokens=3)
    validator = Validator(limits, words, unk_id=0)
    result = check(validator, **fields)
    assert isinstance(result, Rejection)
    assert result.field == field
    assert reason in result.reason
    assert isinstance(check(validator, prompt="Mill 3?"), Edit)


def test_a_tokenizer_that_raises_is_a_rejection() -> None:
    def refuse(text: str) -> list[int]:
        raise ValueError(f"no rule for {text!r}")

    result = check(Validator(tokenize=refuse))
    assert isinstance(result, Rejection)
    assert "cannot be tokenised (no rule for 'Who built the mill?')" in result.reason


@pytest.mark.parametrize(
    ("fields", "field", "reason"),
    [
        ({"prompt": "Where is it?"}, "id", "row 1 has the same id"),
        ({"id": "e2"}, "prompt", "row 1 has the same prompt and target"),
        ({"id": "e2", "prompt": " who  built THE mill "}, "prompt", "row 1 has the same prompt"),
        ({"id": "e2", "target": "ANN miller."}, "prompt", "row 1 has the same prompt and target"),
        ({"id": "e2", "target": "Bob"}, "target", "contradicts row 1: the same prompt"),
        (
            {"id": "e2", "prompt": "\uff37ho built the mill", "target": "Bob"},
            "target",
            "contradicts row 1: the same prompt",
        ),
        (
            {"id": "e2", "prompt": "By whom was the mill built?", "target": "Bob"},
            "target",
            "contradicts row 1: the same subject and relation",
        ),
    ],
)
def test_repeats_and_contradictions_name_the_first_row(
    fields: dict[str, Any], field: str, reason: str
) -> None:
    validator = Validator()
    fact: dict[str, Any] = {"subject": "the mill", "metadata": {"relation": "builder"}}
    assert isinstance(check(validator, 1, **fact), Edit)
    result = check(validator, 2, **{**fact, **fields})
    assert isinstance(result, Rejection)
    assert (result.row, result.field) == (2, field)
    assert reason in result.reason


def test_the_relation_is_read_from_the_prompt_where_none_is_given() -> None:
    validator = Validator()
    first = check(validator, id="a", prompt="Who built Mill?", subject="Mill")
    same = check(validator, id="b", prompt="Who built MILL", subject="mill", target="Bob")
    other = check(validator, id="c", prompt="Who owns Mill?", subject="Mill", target="Bob")
    assert isinstance(first, Edit)
    assert isinstance(same, Rejection)
    assert isinstance(other, Edit)


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "By whom was the mill built?"},
        {"prompt": "Who owns the mill?", "target": "Bob", "metadata": {"relation": "owner"}},
        {"prompt": "Who built the dam?", "target": "Bob", "subject": "the dam"},
        {"prompt": "Who built what?", "target": "Bob", "subject": None},
    ],
)
def test_other_statements_are_no_clash(fields: dict[str, Any]) -> None:
    validator = Validator()
    fact: dict[str, Any] = {"subject": "the mill", "metadata": {"relation": "builder"}}
    assert isinstance(check(validator, **fact), Edit)
    assert isinstance(check(validator, **{"id": "e2", **fact, **fields}), Edit)


def test_targets_of_punctuation_only_are_distinguished() -> None:
    validator = Validator()
    assert isinstance(check(validator, target="?"), Edit)
    result = check(validator, id="e2", target="!")
    assert isinstance(result, Rejection)
    assert result.field == "target"


def test_a_fork_knows_the_past_and_keeps_its_future_to_itself() -> None:
    validator = Validator()
    check(validator)
    fork = validator.fork()
    assert isinstance(check(fork, id="e2"), Rejection)
    assert isinstance(check(fork, id="e3", prompt="Where?"), Edit)
    assert isinstance(check(validator, id="e3", prompt="Where?"), Edit)


@pytest.mark.parametrize(
    ("value", "moment"),
    [
        ("2026-01-31", datetime(2026, 1, 31, tzinfo=UTC)),
        ("2026-01-31T12:00:00", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("2026-01-31T12:00:00+02:00", datetime(2026, 1, 31, 10, tzinfo=UTC)),
        (datetime(2026, 1, 31, 12), datetime(2026, 1, 31, 12, tzinfo=UTC)),
        (
            datetime(2026, 1, 31, 12, tzinfo=timezone(timedelta(hours=-1))),
            datetime(2026, 1, 31, 13, tzinfo=UTC),
        ),
        (date(2026, 1, 31), datetime(2026, 1, 31, tzinfo=UTC)),
        ("", None),
    ],
)
def test_times_are_read_as_utc(value: object, moment: datetime | None) -> None:
    result = check(Validator(), valid_from=value)
    assert isinstance(result, Edit)
    assert result.valid_from == moment
    assert moment is None or result.valid_from.tzinfo is UTC  # type: ignore[union-attr]


def test_a_good_row_is_taken_as_it_is() -> None:
    result = check(
        Validator(),
        prompt="  Who built\n\tthe 磨坊 🏭? ",
        target=" Ann ",
        subject="",
        rephrases=["Whose?", {"text": " Who? ", "source": "orig"}, "Whose?"],
        metadata={"page": 3, "share": 0.5, "open": False, "relation": "builder"},
    )
    assert result == Edit(
        id="e1",
        prompt="Who built\n\tthe 磨坊 🏭?",
        target="Ann",
        rephrases=(Rephrase("Whose?"), Rephrase("Who?", "orig"), Rephrase("Whose?")),
        metadata={"page": "3", "share": "0.5", "open": "false", "relation": "builder"},
    )


def test_contradictions_pass_where_somebody_else_decides() -> None:
    validator = Validator(may_contradict=True)
    fact: dict[str, Any] = {"subject": "the mill", "metadata": {"relation": "builder"}}
    for number, target in enumerate(("Ann", "Bob", "Ann"), 1):
        assert isinstance(check(validator, number, id=f"e{number}", target=target, **fact), Edit)
    result = check(validator.fork(), 4, id="e4", target="ann", **fact)
    assert isinstance(result, Rejection)
    assert "row 3 has the same prompt and target" in result.reason
