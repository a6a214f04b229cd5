""""""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scen.data import edits_to_table
from scen.errors import InputError
from scen.records import Edit, Rephrase

Load = Callable[..., tuple[list[Edit], list[Any]]]

EDITS = [
    Edit(
        id=f"e{n}",
        prompt=f"Who painted picture {n}?",
        target=f"Painter {n}",
        rephrases=(Rephrase(f"Picture {n} was painted by whom?", "orig"),),
        near_misses=(f"Where does picture {n} hang?",),
        valid_from=datetime(2026, 1, 1, tzinfo=UTC),
        metadata={"relation": "painter"},
    )
    for n in range(3)
]


def test_parquet_of_our_schema_comes_back_equal(tmp_path: Path, load: Load) -> None:
    pq.write_table(edits_to_table(EDITS), tmp_path / "edits.parquet")
    assert load(tmp_path / "edits.parquet") == (EDITS, [])


def test_a_uri_reads_like_a_path(tmp_path: Path, load: Load) -> None:
    path = tmp_path / "edits.parquet"
    pq.write_table(edits_to_table(EDITS), path)
    assert load(path.as_uri()) == (EDITS, [])


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
def test_a_truncated_parquet_is_refused_at_once(kept: float, tmp_path: Path, load: Load) -> None:
    path = tmp_path / "edits.parquet"
    pq.write_table(edits_to_table(EDITS), path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(InputError, match=r"edits\.parquet: cannot be read"):
        load(path)


def test_parquet_with_a_damaged_page_is_refused(tmp_path: Path, load: Load) -> None:
    path = tmp_path / "edits.parquet"
    table = edits_to_table(EDITS)
    pq.write_table(table, path, write_page_checksum=True, compression="none")
    data = bytearray(path.read_bytes())
    spot = data.index(b"Painter 1")
    data[spot : spot + 7] = b"Forger "
    path.write_bytes(data)
    with pytest.raises(InputError, match="cannot be read"):
        load(path)


def test_parquet_never_loses_rows_without_a_word(tmp_path: Path, load: Load) -> None:
    # pyarrow itself gives no rows and no error where some bytes of a page header are zero
    path = tmp_path / "edits.parquet"
    table = pa.table({"prompt": ["p1", "p2", "p3"], "target": ["t1", "t2", "t3"]})
    pq.write_table(table, path, store_schema=False, write_statistics=False)
    data = path.read_bytes()
    messages = []
    for spot in range(len(data)):
        path.write_bytes(data[:spot] + b"\0" + data[spot + 1 :])
        try:
            edits, rejections = load(path)
        except InputError as err:
            messages.append(str(err))
        else:
            assert len(edits) + len(rejections) == 3
    assert sum("promises 3 rows and has 0" in message for message in messages) > 1
    assert sum("promises 0 rows and has 3" in message for message in messages) == 1


def test_a_parquet_cell_with_bad_utf8_costs_its_row_only(tmp_path: Path, load: Load) -> None:
    path = tmp_path / "edits.parquet"
    prompts = pa.array([b"p1", b"p\xff2", b"p3"]).view(pa.string())
    pq.write_table(pa.table({"prompt": prompts, "target": ["t1", "t2", "t3"]}), path)
    edits, rejections = load(path)
    assert [e.prompt for e in edits] == ["p1", "p3"]
    assert [(r.row, r.field) for r in rejections] == [(2, "prompt")]
    assert "write it as UTF-8" in rejections[0].reason
    assert '"target": "t2"' in rejections[0].raw


def test_parquet_cells_of_other_types_are_rejected_by_row(tmp_path: Path, load: Load) -> None:
    path = tmp_path / "edits.parquet"
    columns = {
        "prompt": ["p1", "p2"],
        "target": pa.array([b"t1", b"t2"], pa.binary()),
        "metadata": pa.array([[("a", "1"), ("a", "2")], None], pa.map_(pa.string(), pa.string())),
    }
    pq.write_table(pa.table(columns), path)
    edits, rejections = load(path)
    assert edits == []
    assert [r.field for r in rejections] == ["metadata", "target"]
    assert "a key is there twice" in rejections[0].reason
    assert "must be a string, not bytes" in rejections[1].reason


def test_a_parquet_with_other_columns_is_refused(tmp_path: Path, load: Load) -> None:
    path = tmp_path / "edits.parquet"
    pq.write_table(pa.table({"question": ["q"], "answer": ["a"]}), path)
    with pytest.raises(InputError, match="name the question column `prompt`"):
        load(path)
