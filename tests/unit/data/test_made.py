"""Made edits: like the data, distinct, the same for the same seed, and readable by our reader."""

import itertools
from collections import Counter
from pathlib import Path

import pytest

from scen.data import Validator, ingest
from scen.data.made import make_edits, write_edits
from scen.errors import ConfigError, InputError
from scen.records import Edit, Rephrase
from scen.samples import sample_path
from scen.text import normalise

Kinds = dict[str, list[Edit]]


@pytest.fixture(scope="module")
def real() -> Kinds:
    """The edits of both samples."""
    return {
        kind: [
            edit
            for batch in ingest(sample_path(f"{kind}_edits.jsonl"), Validator())
            for edit in batch.edits
        ]
        for kind in ("zsre", "counterfact")
    }


@pytest.fixture(scope="module")
def made(real: Kinds) -> list[Edit]:
    """Five thousand edits."""
    return list(itertools.islice(make_edits(real, seed=3), 5000))


def test_no_fact_and_no_prompt_comes_twice(made: list[Edit], real: Kinds) -> None:
    facts = Counter((normalise(e.subject or ""), e.relation) for e in made)
    prompts = Counter(normalise(e.prompt) for e in made)
    assert max(facts.values()) == max(prompts.values()) == 1
    assert len({e.id for e in made}) == len(made)
    known = {normalise(e.subject or "") for edits in real.values() for e in edits}
    assert known.isdisjoint(subject for subject, _ in facts)
    asked_twice = Counter(subject for subject, _ in facts)
    assert 0.05 < sum(n == 2 for n in asked_twice.values()) / len(asked_twice) < 0.15


def test_the_words_are_the_data_set_s(made: list[Edit], real: Kinds) -> None:
    for kind, edits in real.items():
        own = [e for e in made if e.source == f"made-{kind}"]
        wordings = {e.prompt.replace(e.subject or "", "{}") for e in edits}
        targets = {(e.relation, e.target) for e in edits}
        for edit in own[:500]:
            subject = edit.subject or ""
            assert edit.prompt.replace(subject, "{}") in wordings
            assert (edit.relation, edit.target) in targets
            assert all(subject in r.text for r in edit.rephrases)
        share = len(own) / len(made)
        assert share == pytest.approx(len(edits) / sum(map(len, real.values())), abs=0.08)
    relations = Counter(e.relation for e in real["counterfact"])
    assert {e.relation for e in made if e.source == "made-counterfact"} == relations.keys()
    assert sum(len(e.rephrases) > 0 for e in made) > 0.95 * len(made)


def test_no_near_miss_asks_for_an_edit(made: list[Edit]) -> None:
    asked = {normalise(text) for e in made for text in (e.prompt, *(r.text for r in e.rephrases))}
    assert asked.isdisjoint(normalise(text) for e in made for text in e.near_misses)
    subjects = {e.subject for e in made}
    for edit in made:
        other_subject, other_question = edit.near_misses
        assert (edit.subject or "") in other_question
        assert other_subject not in (edit.prompt, other_question)
    assert len(subjects) < len(made)


def test_the_same_seed_gives_the_same_edits(made: list[Edit], real: Kinds) -> None:
    assert list(itertools.islice(make_edits(real, seed=3), 300)) == made[:300]
    other = list(itertools.islice(make_edits(real, seed=4), 300))
    assert {e.prompt for e in other} != {e.prompt for e in made[:300]}


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_our_reader_takes_every_row_as_it_was_made(
    made: list[Edit], tmp_path: Path, ending: str
) -> None:
    path = tmp_path / f"made.{ending}"
    assert write_edits(iter(made), path) == len(made)
    batches = list(ingest(path, Validator()))
    assert [r for batch in batches for r in batch.rejections] == []
    assert [e for batch in batches for e in batch.edits] == made
    assert list(tmp_path.iterdir()) == [path]


def test_the_file_of_an_interrupted_run_does_not_appear(tmp_path: Path, edits: list[Edit]) -> None:
    def broken() -> itertools.chain[Edit]:
        return itertools.chain(edits, (edits[int("x")] for _ in range(1)))

    with pytest.raises(ValueError, match="invalid literal"):
        write_edits(broken(), tmp_path / "made.jsonl")
    with pytest.raises(ConfigError, match=r"must end in \.jsonl or \.parquet"):
        write_edits(edits, tmp_path / "made.csv")
    assert list(tmp_path.iterdir()) == []


def test_few_names_still_give_as_many_edits_as_are_wanted() -> None:
    few = [
        Edit(f"{verb}-{name}", f"Who {verb} {name}?", "Ann", name, (Rephrase(f"{name}: {verb}?"),))
        for verb in ("founded", "led")
        for name in ("Aba", "Bebe Co")
    ]
    made = list(itertools.islice(make_edits({"few": few}), 400))
    assert len({e.prompt for e in made}) == 400
    assert {e.relation for e in made} == {"who founded {}", "who led {}"}


def test_data_without_two_relations_is_refused(edits: list[Edit]) -> None:
    with pytest.raises(InputError, match="mine: made edits need"):
        next(make_edits({"mine": edits}))
