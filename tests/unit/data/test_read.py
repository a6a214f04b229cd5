""""""

import gzip
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from scen.data import Validator, ingest
from scen.data.read import describe_source, digest_source
from scen.errors import InputError
from scen.records import Edit, Rephrase

Load = Callable[..., tuple[list[Edit], list[Any]]]

LINES = b'{"prompt": "Who?", "target": "Ann"}\n{"prompt": "Where?", "target": "Here"}\n'


def test_a_packed_json_list_of_several_chunks(tmp_path: Path, load: Load) -> None:
    path = tmp_path / "edits.json.gz"
    rows = [{"prompt": f"{n}" * 1500, "target": f"is {n}"} for n in range(1000)]
    path.write_bytes(gzip.compress(json.dumps(rows).encode()))
    assert len(load(path)[0]) == 1000


def test_packed_text_is_unpacked(tmp_path: Path, load: Load) -> None:
    path = tmp_path / "edits.jsonl.gz"
    path.write_bytes(gzip.compress(LINES))
    assert len(load(path)[0]) == 2


def test_packed_text_that_breaks_off_is_refused(tmp_path: Path, load: Load) -> None:
    path = tmp_path / "edits.jsonl.gz"
    path.write_bytes(gzip.compress(LINES)[:-12])
    with pytest.raises(InputError, match=r"edits\.jsonl\.gz: cannot be read"):
        load(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("edits.jsonl", b"", "is empty"),
        ("edits.parquet", b"", "is empty"),
        ("edits.xlsx", b"x", r"ending '\.xlsx' is not known"),
        ("edits", b"x", "ending '' is not known"),
        ("edits.parquet", b"no parquet at all", "cannot be read"),
        ("edits.csv", b"\n\n", "has no header row"),
        ("edits.jsonl", '{"prompt": "x"}'.encode("utf-16"), "is UTF-16"),
    ],
)
def test_files_that_are_refused_whole(
    name: str, content: bytes, message: str, tmp_path: Path, load: Load
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name}: .*{message}"):
        load(tmp_path / name)


def test_places_that_are_no_file(tmp_path: Path, load: Load) -> None:
    with pytest.raises(InputError, match="does not exist"):
        load(tmp_path / "none.jsonl")
    with pytest.raises(InputError, match="is a folder"):
        load(tmp_path)
    with pytest.raises(InputError, match="no file system opens this URI"):
        load("gopher://host/edits.jsonl")


ROWS: list[dict[str, Any]] = [
    {"id": "a", "prompt": "Who is a?", "target": "Ann", "rephrases": ["A is who?"], "page": 7},
    {"src": "Who is b?", "alt": "Bob", "rephrase": "B is who?"},
    {"prompt": "Who is c?"},
]


def test_they_come_out_as_from_a_file(load: Load, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    edits, rejections = load(file)
    again, also = load(ROWS)
    assert again == edits
    assert [(row.row, row.field, row.reason) for row in also] == [
        (row.row, row.field, row.reason) for row in rejections
    ]
    assert (edits[0].metadata, edits[1].target) == ({"page": "7"}, "Bob")


def test_edits_come_out_as_they_are() -> None:
    edit = Edit(
        "a",
        "Who is a?",
        "Ann",
        rephrases=(Rephrase("A is who?", "mine"),),
        near_misses=("Where is a?",),
        valid_until=datetime(2999, 1, 1, tzinfo=UTC),
        metadata={"page": "7"},
    )
    (batch,) = ingest([edit], Validator())
    assert (batch.edits, batch.rows) == ((edit,), (1,))


def test_what_is_no_row_is_rejected_and_costs_no_other_row() -> None:
    (batch,) = ingest([7, ROWS[0]], Validator())  # type: ignore[list-item]
    assert (batch.rejections[0].field, batch.rejections[0].raw) == ("row", "7")
    assert (batch.edits[0].id, batch.rows) == ("a", (2,))
    with pytest.raises(InputError, match="2 rows: 1 of 2 rows are bad"):
        ingest([7, ROWS[0]], Validator(), strict=True)  # type: ignore[list-item]


def test_rows_are_named_by_their_content() -> None:
    same = dict(reversed(ROWS[0].items()))
    assert digest_source(ROWS[:1]) == digest_source([same])
    assert digest_source(ROWS[:1]) != digest_source(ROWS[:2])
    assert digest_source([7]) != digest_source([8])  # type: ignore[list-item]
    assert (describe_source(ROWS), describe_source("x.csv")) == ("3 rows", "x.csv")
