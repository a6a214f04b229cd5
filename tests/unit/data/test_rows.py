""""""

import json
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow.fs import FileType

from scen.data import QuarantineFile, Rejection, Validator, ingest
from scen.errors import ConfigError

REJECTION = Rejection(row=2, id="e2", field="target", reason="is empty", raw="{}")


def test_every_rejected_row_is_in_the_file_with_its_reason(tmp_path: Path) -> None:
    lines = [
        '{"id": "e1", "prompt": "Who?", "target": "Ann"}',
        '{"id": "e1", "prompt": "Where?", "target": "Here"}',
        '{"id": "e3", "prompt": "who", "target": "Bob"}',
        '{"id": "e\\ud800", "prompt": "When?", "target": "Now"}',
        "not json",
        '{"prompt": "How?", "target": 7}',
    ]
    source, path = tmp_path / "edits.jsonl", tmp_path / "new" / "quarantine.parquet"
    source.write_text("\n".join(lines), encoding="utf-8")
    with QuarantineFile(path) as quarantine:
        for batch in ingest(source, Validator(), batch_size=2):
            quarantine.add(batch.rejections)
    rows = pq.read_table(path).to_pylist()
    assert quarantine.num_rows == len(rows) == 5
    assert [(row["row"], row["id"], row["field"]) for row in rows] == [
        (2, "e1", "id"),
        (3, "e3", "target"),
        (4, "e\\ud800", "id"),
        (5, None, "row"),
        (6, None, "target"),
    ]
    assert "row 1 has the same id" in rows[0]["reason"]
    assert "contradicts row 1" in rows[1]["reason"]
    assert "must be 1 to 128" in rows[2]["reason"]
    assert "is not valid JSON" in rows[3]["reason"]
    assert "must be a string, not a number" in rows[4]["reason"]
    assert [row["raw"] for row in rows] == lines[1:]


def test_nothing_rejected_is_an_empty_file(tmp_path: Path) -> None:
    with QuarantineFile(tmp_path / "q.parquet") as quarantine:
        quarantine.add(())
    assert pq.read_table(tmp_path / "q.parquet").num_rows == 0


def test_a_file_that_was_there_stays_when_the_work_fails(tmp_path: Path) -> None:
    path = tmp_path / "q.parquet"
    path.write_bytes(b"earlier")

    def fail() -> None:
        with QuarantineFile(path) as quarantine:
            quarantine.add([REJECTION])
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        fail()
    assert path.read_bytes() == b"earlier"
    assert list(tmp_path.iterdir()) == [path]


def test_the_file_is_replaced_whole_and_no_part_is_left(tmp_path: Path) -> None:
    path = tmp_path / "q.parquet"
    path.write_bytes(b"earlier")
    with QuarantineFile(path.as_uri()) as quarantine:
        quarantine.add([REJECTION])
        assert path.read_bytes() == b"earlier"
    assert pq.read_table(path).num_rows == 1
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with (
        pytest.raises(ConfigError, match=r"quarantine: .* cannot be written"),
        QuarantineFile(tmp_path / "file" / "q.parquet"),
    ):
        pass


def test_a_store_that_is_no_folder_gets_the_whole_file() -> None:
    with QuarantineFile("mock:///q.parquet") as quarantine:
        quarantine.add([REJECTION])
        filesystem = quarantine._location.filesystem
        assert filesystem.get_file_info("q.parquet").type == FileType.NotFound
    with filesystem.open_input_file("q.parquet") as file:
        assert pq.read_table(file).to_pylist() == [asdict(REJECTION)]


def test_raw_is_the_row_as_the_file_has_it(tmp_path: Path) -> None:
    (tmp_path / "edits.csv").write_text("prompt,target\np1\n", encoding="utf-8")
    [batch] = ingest(tmp_path / "edits.csv", Validator())
    assert batch.rejections[0].raw == "p1\n"
    table = pa.table({"prompt": ["p"], "target": [None], "mark": [b"x"]})
    pq.write_table(table, tmp_path / "edits.parquet")
    [batch] = ingest(tmp_path / "edits.parquet", Validator())
    assert json.loads(batch.rejections[0].raw) == {"prompt": "p", "target": None, "mark": "b'x'"}
