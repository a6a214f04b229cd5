""""""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scen.data import Validator, ingest
from scen.errors import ConfigError, InputError
from scen.records import Edit

Load = Callable[..., tuple[list[Edit], list[Any]]]

MEND = {"src": "Who built the mill?", "alt": "Ann", "rephrase": "By whom was the mill built?"}
PREPARED = {"prompt": "Who built it?", "target": "Ann", "rephrases": ["a", "b"]}
EASYEDIT = {"prompt": "Who built it?", "target_new": "Ann", "rephrase_prompt": "By whom?"}
ROME = {"requested_rewrite": {"prompt": "{} is", "subject": "Ann", "target_new": {"str": "x"}}}
HALLUCINATION = {"text": "A passage about Ann.", "labels": "Ann was born.", "concept": "ann"}


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_an_id_made_from_content_is_the_same_every_time(tmp_path: Path, load: Load) -> None:
    row = {"prompt": "p", "target": "t"}
    [first], _ = load(write(tmp_path / "a.jsonl", row))
    [again], _ = load(write(tmp_path / "b.jsonl", {**row, "note": "other"}))
    [other], _ = load(write(tmp_path / "c.jsonl", {**row, "target": "u"}))
    assert first.id == again.id != other.id
    assert first.id.startswith("scen-")


def test_unknown_fields_of_our_own_format_are_kept_as_text(tmp_path: Path, load: Load) -> None:
    row = {
        "prompt": "p",
        "target": "t",
        "metadata": {"relation": "r", "gone": None},
        "year": 1900,
        "checked": True,
        "tags": ["a", {"b": 1}],
        "none": None,
    }
    [edit], _ = load(write(tmp_path / "edits.jsonl", row))
    assert edit.metadata == {
        "relation": "r",
        "year": "1900",
        "checked": "true",
        "tags": '["a", {"b": 1}]',
    }


@pytest.mark.parametrize(
    ("record", "field", "reason"),
    [
        ({"prompt": "p", "target": "t", "a": 1, "metadata": {"a": "2"}}, "a", "keep one of them"),
        ({**MEND, "alt": ""}, "target", "is empty"),
        ({**MEND, "src": 7}, "prompt", "must be a string, not a number"),
        ({**MEND, "rephrase": 7}, "rephrases[0]", "must be a string, not a number"),
        ({**PREPARED, "rephrase_src": ["orig"]}, "rephrases", "with 1 sources"),
        ({**PREPARED, "subject_locality": ["x"]}, "subject_locality", "objects with a prompt"),
        ({**EASYEDIT, "locality": ["x"]}, "locality", "an object of probe lists"),
        ({**ROME, "requested_rewrite": "x"}, "requested_rewrite", "must be an object"),
        ({**HALLUCINATION, "labels": None}, "target", "is missing"),
    ],
)
def test_a_malformed_published_record_is_rejected_by_field(
    record: dict[str, Any], field: str, reason: str, tmp_path: Path, load: Load
) -> None:
    good = {"prompt": "p", "target": "t"}
    edits, [rejection] = load(write(tmp_path / "edits.jsonl", record, good))
    assert [e.prompt for e in edits] == ["p"]
    assert rejection.field == field
    assert reason in rejection.reason
    assert json.loads(rejection.raw) == record


def test_a_named_format_takes_no_other(tmp_path: Path, load: Load) -> None:
    edits, [rejection] = load(write(tmp_path / "e.jsonl", MEND), data_format="hallucination")
    assert (edits, rejection.field) == ([], "prompt")
    (tmp_path / "e.csv").write_text("prompt,target\np,t\n", encoding="utf-8")
    with pytest.raises(InputError, match="which no known format has"):
        load(tmp_path / "e.csv", data_format="hallucination")


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="data_format: 'squad' is none of auto, scen"):
        ingest(tmp_path / "edits.jsonl", Validator(), data_format="squad")
