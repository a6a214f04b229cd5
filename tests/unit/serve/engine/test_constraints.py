"""Constraints of answers: which tokens may follow, and where an edit's answer goes."""

import json
import re
import threading
from typing import Any

import pytest
import torch

from scen.errors import InputError
from scen.model.base import Base
from scen_serve.api.replies import fix_answer
from scen_serve.engine.decoding import Constraints, Matcher
from scen_serve.engine.engine import Engine
from scen_serve.engine.request import Constraint, Sampling
from unit.serve.conftest import NEW, ask, finish, serve_edits, unrelated

YEAR = Constraint("regex", "(19|20)[0-9]{2}")
TEXT = {"type": "string"}


@pytest.fixture(scope="module")
def constraints(loaded_tiny: Base) -> Constraints:
    return Constraints(loaded_tiny)


def of(schema: Any) -> Constraint:
    return Constraint("json_schema", json.dumps(schema))


def written(matcher: Matcher, base: Base, seed: int = 0) -> str:
    """A random answer: at each step any token that may follow."""
    draw = torch.Generator().manual_seed(seed)
    ids: list[int] = []
    while not matcher.is_complete:
        logits_V = matcher.mask(torch.rand(base.model.config.vocab_size, generator=draw))
        token = int(logits_V.argmax())
        if token in base.stop_ids:
            break
        ids.append(token)
        matcher.take(token)
    return str(base.tokenizer.decode(ids))


def test_random_tokens_make_what_was_asked_for(constraints: Constraints, loaded_tiny: Base) -> None:
    form = of(
        {"type": "object", "properties": {"a": {"enum": ["x", 1]}}, "required": ["a"]}
        | {"additionalProperties": False}
    )
    texts = {written(constraints.matcher(form), loaded_tiny, seed) for seed in range(8)}
    assert texts == {'{"a": "x"}', '{"a": 1}'}
    for seed in range(8):
        assert re.fullmatch(YEAR.text, written(constraints.matcher(YEAR), loaded_tiny, seed))


def test_answers_do_not_share_their_state(constraints: Constraints, loaded_tiny: Base) -> None:
    first = constraints.matcher(YEAR)
    assert re.fullmatch(YEAR.text, written(first, loaded_tiny))
    assert re.fullmatch(YEAR.text, written(constraints.matcher(YEAR), loaded_tiny))


def test_the_logits_of_what_may_follow_are_kept(
    constraints: Constraints, loaded_tiny: Base
) -> None:
    logits_V = torch.randn(loaded_tiny.model.config.vocab_size)
    masked_V = constraints.matcher(YEAR).mask(logits_V)
    allowed = masked_V.isfinite()
    digits = {loaded_tiny.tokenizer.convert_tokens_to_ids(digit) for digit in "12"}
    assert set(allowed.nonzero()[:, 0].tolist()) == digits
    assert torch.equal(masked_V[allowed], logits_V[allowed])


def test_threads_compile_at_once(loaded_tiny: Base) -> None:
    constraints, errors = Constraints(loaded_tiny), []

    def compile_many() -> None:
        try:
            for i in range(20):
                text = written(
                    constraints.matcher(Constraint("regex", f"[ab]{{{i % 5 + 1}}}")), loaded_tiny
                )
                assert len(text) == i % 5 + 1
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=compile_many) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


@pytest.mark.parametrize(
    "constraint",
    [
        Constraint("regex", "("),
        Constraint("regex", r"[^\s\S]"),
        Constraint("regex", "a" * 70_000),
        Constraint("json_schema", "{"),
        Constraint("json_schema", "[]"),
        Constraint("json_schema", "true"),
        Constraint("json_schema", '"\\ud800"'),
        of({"type": "nothing"}),
        of({"not": TEXT}),
        of({"type": "string", "pattern": "(?=a)"}),
        of({"$ref": "#/$defs/missing"}),
        of({"$ref": "#"}),
        of({"type": "integer", "minimum": 3, "maximum": 1}),
    ],
)
def test_what_cannot_be_followed_is_refused(
    constraints: Constraints, constraint: Constraint
) -> None:
    with pytest.raises(InputError):
        constraints.matcher(constraint)


def test_rows_with_and_without_constraints_run_side_by_side(engine: Engine) -> None:
    """The rows without are not changed."""
    prompts = [edit.prompt for edit in serve_edits(3)] + unrelated(3)
    plain = [ask(engine, prompt) for prompt in prompts]
    finish(engine, plain)
    sampling = Sampling(NEW, constraint=YEAR)
    mixed = [ask(engine, prompt) for prompt in prompts]
    formed = [ask(engine, prompt, sampling) for prompt in prompts]
    finish(engine, mixed + formed)
    assert [client.text for client in mixed] == [client.text for client in plain]
    assert all(re.fullmatch(YEAR.text, client.text) for client in formed)
    assert {client.ended.reason for client in formed} == {"stop"}


CLOSED = {"type": "object", "additionalProperties": False}


@pytest.mark.parametrize(
    ("schema", "answer", "place"),
    [
        ({"a": TEXT}, "Ann", {"a": "Ann"}),
        ({"a": TEXT, "b": TEXT}, "Ann", None),
        ({"a": TEXT, "Answer": TEXT}, "Ann", {"Answer": "Ann"}),
        ({"a": TEXT, "answer": {"enum": ["Bo"]}}, "Ann", None),
        ({"a": TEXT, "n": {"type": "integer"}}, "2006", {"n": 2006}),
        ({"a": TEXT, "n": {"type": "integer", "maximum": 9}}, "2006", {"a": "2006"}),
        ({"a": TEXT, "n": {"type": "boolean"}}, "true", {"n": True}),
        ({"a": TEXT}, 'say "no"\n', {"a": 'say "no"\n'}),
        ({"a": {"type": "integer"}}, "NaN", None),
        ({"a": {"type": "integer"}}, "007", None),
        ({"a": True, "b": False}, "Ann", {"a": "Ann"}),
        ({}, "Ann", None),
    ],
)
def test_an_answer_has_one_place_in_an_object(
    constraints: Constraints, schema: Any, answer: str, place: Any
) -> None:
    found = fix_answer(constraints, of(CLOSED | {"properties": schema}), answer)
    if place is None:
        assert found is None
        return
    assert found is not None
    fixed = json.loads(found.text)
    [(name, value)] = place.items()
    assert fixed["properties"] == schema | {name: {"const": value}}
    assert list(fixed["properties"]) == list(schema)
    assert fixed["required"] == [name]


def test_an_answer_may_be_all(constraints: Constraints) -> None:
    assert fix_answer(constraints, of(TEXT), "Ann") == of({"const": "Ann"})
    assert fix_answer(constraints, of({"type": "integer"}), "7") == of({"const": 7})
    assert fix_answer(constraints, YEAR, "2006") == Constraint("choice", '["2006"]')
    assert fix_answer(constraints, YEAR, "206") is None
    assert fix_answer(constraints, Constraint("choice", '["yes", "no"]'), "maybe") is None
