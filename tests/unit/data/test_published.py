""""""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scen.data.formats import detect_format
from scen.records import Edit, Rephrase

Load = Callable[..., tuple[list[Edit], list[Any]]]

MEND = {
    "subject": "Watts Humphrey",
    "src": "What university did Watts Humphrey attend?",
    "pred": "Trinity College",
    "rephrase": "What university did Watts Humphrey take part in?",
    "alt": "University of Michigan",
    "answers": ["Illinois Institute of Technology"],
    "loc": "nq question: who keeps the tallest lighthouse in the bay",
    "loc_ans": "the harbour board",
    "cond": "Trinity College >> University of Michigan || What university did Watts Humphrey ...",
}
PREPARED = {
    "id": "zsre-0001",
    "subject": "Ramalinaceae",
    "prompt": "Which family does Ramalinaceae belong to?",
    "target": "Lamiinae",
    "target_true": ["Lecanorales"],
    "rephrases": ["What family are Ramalinaceae?", "Which was the family of Ramalinaceae?"],
    "rephrase_src": ["orig", "template"],
    "locality_prompt": "how many strings has a bowed lute?",
    "locality_answer": "two",
    "relation": "taxon_family",
    "fact_group": "g0001",
    "primary": True,
    "flags": [],
    "source": "mend_eval",
    "subject_locality": [{"prompt": "The taxon rank of Ramalinaceae is", "answer": "family"}],
}
EASYEDIT = {
    "case_id": 3,
    "subject": "ZIC3",
    "prompt": "What species is ZIC3 specific to?",
    "target_new": "male",
    "ground_truth": ["human"],
    "rephrase_prompt": "In which living being can you find ZIC3?",
    "locality": {
        "Relation_Specificity": [
            {"prompt": "The strand orientation of ZIC3 is", "ground_truth": ["forward strand"]}
        ],
        "Other": {"prompt": ["What does a cooper make?"], "ground_truth": ["barrels"]},
    },
}
KNOWEDIT = {
    "subject": "Epaspidoceras",
    "prompt": "Which family does Epaspidoceras belong to?",
    "target_new": "Noctuidae",
    "ground_truth": [["Aspidoceratidae"]],
    "rephrase_prompt": "What family are Epaspidoceras?",
    "portability": {"Reasoning": [{"prompt": "What is its common name?", "ground_truth": "moths"}]},
    "locality": {
        "Forgetfulness": [{"prompt": ["The taxon rank of Epaspidoceras is"], "ground_truth": [""]}]
    },
}
ROME = {
    "case_id": 0,
    "pararel_idx": 2796,
    "requested_rewrite": {
        "prompt": "The mother tongue of {} is",
        "relation_id": "P103",
        "target_new": {"str": "English", "id": "Q1860"},
        "target_true": {"str": "French", "id": "Q150"},
        "subject": "Danielle Darrieux",
    },
    "paraphrase_prompts": ["Danielle Darrieux, a native", "Danielle Darrieux spoke the language"],
    "neighborhood_prompts": ["The mother tongue of Léon Blum is"],
    "attribute_prompts": ["J.R.R. Tolkien is a native speaker of"],
    "generation_prompts": ["Danielle Darrieux was born in"],
}
COUNTERFACT = {
    "id": "cf-00254",
    "subject": "Maurice de Vlaminck",
    "prompt": "Maurice de Vlaminck was native to",
    "target_new": "Ottawa",
    "target_true": "Paris",
    "relation": "birth_origin",
    "paraphrase_prompts": ["Maurice de Vlaminck is native to"],
    "paraphrase_src": ["template"],
    "neighborhood_prompts": ["Pauline Viardot originates from"],
    "neighborhood_src": ["derived"],
    "source": "counterfact-edit",
    "target_in_subject": False,
}
HALLUCINATION = {
    "concept": "ann example",
    "text": "This is a Wikipedia passage about ann example. ",
    "labels": "Ann Example (born 1901) was a bridge builder.",
}
EDITS = {
    "MEND": Edit(
        id="zsre-fd5f23f2fce5",
        prompt="What university did Watts Humphrey attend?",
        target="University of Michigan",
        subject="Watts Humphrey",
        rephrases=(Rephrase("What university did Watts Humphrey take part in?", "orig"),),
        locality_prompts=("who keeps the tallest lighthouse in the bay",),
        metadata={"target_true": "Illinois Institute of Technology"},
    ),
    "PREPARED": Edit(
        id="zsre-0001",
        prompt="Which family does Ramalinaceae belong to?",
        target="Lamiinae",
        subject="Ramalinaceae",
        rephrases=(
            Rephrase("What family are Ramalinaceae?", "orig"),
            Rephrase("Which was the family of Ramalinaceae?", "template"),
        ),
        near_misses=("The taxon rank of Ramalinaceae is",),
        locality_prompts=("how many strings has a bowed lute?",),
        source="mend_eval",
        metadata={
            "relation": "taxon_family",
            "fact_group": "g0001",
            "primary": "true",
            "target_true": "Lecanorales",
        },
    ),
    "EASYEDIT": Edit(
        id="zsre-3",
        prompt="What species is ZIC3 specific to?",
        target="male",
        subject="ZIC3",
        rephrases=(Rephrase("In which living being can you find ZIC3?", "orig"),),
        near_misses=("The strand orientation of ZIC3 is",),
        locality_prompts=("What does a cooper make?",),
        metadata={"case_id": "3", "target_true": "human"},
    ),
    "KNOWEDIT": Edit(
        id="knowedit-b8df73a161bb",
        prompt="Which family does Epaspidoceras belong to?",
        target="Noctuidae",
        subject="Epaspidoceras",
        rephrases=(Rephrase("What family are Epaspidoceras?", "knowedit"),),
        near_misses=("The taxon rank of Epaspidoceras is",),
        metadata={"target_true": "Aspidoceratidae"},
    ),
    "ROME": Edit(
        id="counterfact-0",
        prompt="The mother tongue of Danielle Darrieux is",
        target="English",
        subject="Danielle Darrieux",
        rephrases=(
            Rephrase("Danielle Darrieux, a native", "orig"),
            Rephrase("Danielle Darrieux spoke the language", "orig"),
        ),
        near_misses=("The mother tongue of Léon Blum is",),
        metadata={"relation": "P103", "case_id": "0", "target_true": "French"},
    ),
    "COUNTERFACT": Edit(
        id="cf-00254",
        prompt="Maurice de Vlaminck was native to",
        target="Ottawa",
        subject="Maurice de Vlaminck",
        rephrases=(Rephrase("Maurice de Vlaminck is native to", "template"),),
        near_misses=("Pauline Viardot originates from",),
        source="counterfact-edit",
        metadata={"relation": "birth_origin", "target_true": "Paris"},
    ),
    "HALLUCINATION": Edit(
        id="hallucination-6c82cf7cb02d",
        prompt="This is a Wikipedia passage about ann example.",
        target="Ann Example (born 1901) was a bridge builder.",
        subject="ann example",
    ),
}
RECORDS = [
    ("MEND", MEND, "zsre"),
    ("PREPARED", PREPARED, "zsre"),
    ("EASYEDIT", EASYEDIT, "zsre"),
    ("KNOWEDIT", KNOWEDIT, "knowedit"),
    ("ROME", ROME, "counterfact"),
    ("COUNTERFACT", COUNTERFACT, "counterfact"),
    ("HALLUCINATION", HALLUCINATION, "hallucination"),
]


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(("name", "record", "data_format"), RECORDS)
def test_each_published_record_becomes_its_edit(
    name: str, record: dict[str, Any], data_format: str, tmp_path: Path, load: Load
) -> None:
    path = write(tmp_path / "edits.jsonl", record)
    assert load(path, data_format=data_format) == ([EDITS[name]], [])
    assert detect_format(record) == data_format
    assert load(path) == ([EDITS[name]], [])


@pytest.mark.parametrize(("name", "record", "data_format"), RECORDS)
def test_published_records_in_parquet(
    name: str, record: dict[str, Any], data_format: str, tmp_path: Path, load: Load
) -> None:
    pq.write_table(pa.Table.from_pylist([record]), tmp_path / "edits.parquet")
    assert load(tmp_path / "edits.parquet", data_format=data_format) == ([EDITS[name]], [])


def test_formats_may_mix_in_one_file(tmp_path: Path, load: Load) -> None:
    rows = [{"junk": 1}, *(record for _, record, _ in RECORDS), {"prompt": "p", "target": "t"}]
    edits, rejections = load(write(tmp_path / "edits.jsonl", *rows))
    assert edits[:-1] == list(EDITS.values())
    assert [r.row for r in rejections] == [1]


def test_edits_of_one_concept_are_no_contradiction(tmp_path: Path, load: Load) -> None:
    text = HALLUCINATION["text"] + HALLUCINATION["labels"]
    longer = {**HALLUCINATION, "text": text, "labels": "She built eleven of them."}
    edits, rejections = load(write(tmp_path / "edits.jsonl", HALLUCINATION, longer))
    assert len(edits) == 2
    assert rejections == []
