"""The samples are what their README says, licences included."""

import json
from typing import Any

import pytest

from scen.errors import NotFoundError
from scen.samples import sample_names, sample_path

COUNTS = {
    "counterfact_edits.jsonl": 1000,
    "hallucination_accurate.jsonl": 204,
    "hallucination_edits.jsonl": 240,
    "neutral_prose.jsonl": 19,
    "nq_locality.jsonl": 1000,
    "nq_neutral.jsonl": 400,
    "nq_questions.jsonl": 275,
    "written_questions.jsonl": 838,
    "zsre_edits.jsonl": 1200,
}
LICENCES = {
    "counterfact_edits.jsonl": "MIT",
    "neutral_prose.jsonl": "public domain",
    "written_questions.jsonl": "Apache-2.0",
    "zsre_edits.jsonl": "MIT",
}


def records(name: str) -> list[dict[str, Any]]:
    lines = sample_path(name).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_the_samples_are_those_that_the_readme_lists() -> None:
    assert sample_names() == sorted(["asking.yaml", "portability.yaml", *COUNTS])
    readme = sample_path("zsre_edits.jsonl").with_name("README.md").read_text(encoding="utf-8")
    for name, count in COUNTS.items():
        licence = LICENCES.get(name, "**CC BY-SA 3.0**")
        [row] = [line for line in readme.splitlines() if line.startswith(f"| {name} |")]
        assert row.startswith(f"| {name} | {count} |")
        assert row.endswith(f"| {licence} |")


@pytest.mark.parametrize("name", COUNTS)
def test_a_sample_parses_and_its_ids_are_unique(name: str) -> None:
    ids = [record["id"] for record in records(name)]
    assert len(ids) == len(set(ids)) == COUNTS[name]


def test_no_share_alike_text_is_in_the_zsre_file() -> None:
    edits = records("zsre_edits.jsonl")
    assert not {key for record in edits for key in record if key.startswith("locality")}
    text = sample_path("zsre_edits.jsonl").read_text(encoding="utf-8")
    questions = records("nq_locality.jsonl") + records("nq_neutral.jsonl")
    assert not [record["question"] for record in questions if record["question"] in text]


def test_the_zsre_stream_contradicts_nothing() -> None:
    edits = records("zsre_edits.jsonl")
    assert len({record["fact_group"] for record in edits}) == len(edits)
    assert len({record["prompt"] for record in edits}) == len(edits)
    for record in edits:
        assert record["subject"] in record["prompt"]
        assert len(record["rephrases"]) == len(record["rephrase_src"]) > 0


def test_neutral_and_locality_questions_are_different() -> None:
    locality = {record["question"] for record in records("nq_locality.jsonl")}
    neutral = {record["question"] for record in records("nq_neutral.jsonl")}
    assert len(locality) == 1000
    assert locality.isdisjoint(neutral)


def test_an_unknown_sample_names_the_known_ones() -> None:
    with pytest.raises(NotFoundError, match=r"zsre_edits\.jsonl"):
        sample_path("zsre.jsonl")
