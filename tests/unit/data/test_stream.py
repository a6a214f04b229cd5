""""""

import json
import tracemalloc
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scen.data import EDIT_SCHEMA, Validator, edits_to_table, ingest, table_to_edits
from scen.data.files import CHUNK_BYTES
from scen.data.stream import ReadOptions, describe_rejections, read_edits
from scen.errors import ConfigError, InputError
from scen.ledger.state import Snapshot
from scen.pipeline.evaluate import EvalJob, _select_edits
from scen.pipeline.job_spec import CalibrateSpec
from scen.pipeline.run_job import _read_edits
from scen.records import Edit, Rephrase


def write_rows(path: Path, num_rows: int, bad_rows: tuple[int, ...] = ()) -> Path:
    rows = [
        {
            "id": f"e{n}",
            "prompt": f"Question {n}?",
            "target": "" if n in bad_rows else f"answer {n}",
        }
        for n in range(1, num_rows + 1)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_batches_hold_batch_size_rows_in_order(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "edits.jsonl", 10, bad_rows=(2, 3, 10))
    batches = list(ingest(path, Validator(), batch_size=4))
    assert [(len(b.edits), len(b.rejections)) for b in batches] == [(2, 2), (4, 0), (1, 1)]
    assert [e.id for b in batches for e in b.edits] == ["e1", "e4", "e5", "e6", "e7", "e8", "e9"]
    assert [r.row for b in batches for r in b.rejections] == [2, 3, 10]


def test_the_limit_counts_edits_and_nothing_is_checked_beyond(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "edits.jsonl", 10, bad_rows=(1,))
    validator = Validator()
    batches = list(ingest(path, validator, limit=5, batch_size=4))
    assert [e.id for b in batches for e in b.edits] == ["e2", "e3", "e4", "e5", "e6"]
    rest = [e.id for b in ingest(path, validator) for e in b.edits]
    assert rest == ["e7", "e8", "e9", "e10"]
    assert list(ingest(path, Validator(), limit=0)) == []


def test_rows_come_out_before_the_file_is_read_to_its_end(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "edits.jsonl", 10)
    with path.open("ab") as file:
        file.truncate(path.stat().st_size + 40 * CHUNK_BYTES)
    tracemalloc.start()
    batches = ingest(path, Validator(), batch_size=10)
    assert len(next(batches).edits) == 10
    # the rest is one line of zero bytes, far over the limit: held only up to it
    [last] = batches
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 20 * CHUNK_BYTES
    assert [(r.row, r.field) for r in last.rejections] == [(11, "row")]
    assert len(last.rejections[0].raw) < 10_000


def test_files_of_one_wave_share_a_validator(tmp_path: Path) -> None:
    first = write_rows(tmp_path / "a.jsonl", 3)
    second = write_rows(tmp_path / "b.jsonl", 4)
    validator = Validator()
    list(ingest(first, validator))
    [batch] = ingest(second, validator)
    assert [e.id for e in batch.edits] == ["e4"]
    assert len(batch.rejections) == 3


def test_strict_refuses_the_whole_file_before_the_first_batch(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "edits.jsonl", 20, bad_rows=(3, *range(12, 20)))
    validator = Validator()
    with pytest.raises(InputError) as caught:
        ingest(path, validator, strict=True)
    message = str(caught.value)
    assert "9 of 20 rows are bad" in message
    assert "row 3: target is empty" in message
    assert message.count("\n") == 5
    # the refused file left no trace in the validator
    assert sum(len(b.edits) for b in ingest(path, validator)) == 11


def test_strict_takes_a_sound_file(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "edits.jsonl", 5)
    [batch] = ingest(path, Validator(), strict=True)
    assert (len(batch.edits), batch.rejections) == (5, ())


def test_strict_sees_clashes_with_an_earlier_file(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "edits.jsonl", 2)
    validator = Validator()
    list(ingest(path, validator))
    with pytest.raises(InputError, match="2 of 2 rows are bad"):
        ingest(path, validator, strict=True)


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"limit": -1}])
def test_senseless_options_are_refused(options: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="batch_size: must be at least 1"):
        ingest(tmp_path / "edits.jsonl", Validator(), **options)  # type: ignore[arg-type]


FULL = Edit(
    id="e1",
    prompt="Who leads Åland's museum?",
    target="Nils 🦊",
    subject="Åland's museum",
    rephrases=(Rephrase("Åland's museum is led by whom?", "orig"), Rephrase("Its head?")),
    near_misses=("Where is Åland's museum?",),
    locality_prompts=("How tall is a giraffe?", "What boils at 100 degrees?"),
    source="wire",
    author="ada",
    valid_from=datetime(2026, 1, 1, 12, tzinfo=UTC),
    valid_until=datetime(2027, 1, 1, microsecond=7, tzinfo=UTC),
    metadata={"relation": "head", "note": ""},
)


def test_edits_survive_the_table() -> None:
    edits = [FULL, Edit(id="e2", prompt="p", target="t")]
    table = edits_to_table(edits)
    assert table.schema.equals(EDIT_SCHEMA)
    assert table_to_edits(table) == edits


def test_no_edits_are_an_empty_table() -> None:
    assert table_to_edits(edits_to_table([])) == []


def test_another_schema_is_refused() -> None:
    with pytest.raises(InputError, match="EDIT_SCHEMA"):
        table_to_edits(pa.table({"prompt": ["p"], "target": ["t"]}))


def test_every_command_reads_a_file_of_edits_alike(tmp_path: Path) -> None:
    """What `scen edit` sets aside, `scen eval` and `scen calibrate` do too, and say so."""
    frame = pa.table({"prompt": ["Who?", "What?"], "target": ["Ann", "nan"], "kept": [5, 6]})
    pandas = {"pandas": json.dumps({"index_columns": ["kept"], "columns": []})}
    file = tmp_path / "edits.parquet"
    pq.write_table(frame.replace_schema_metadata(pandas), file)
    edits, rejections = read_edits(file, ReadOptions())
    assert [(edit.prompt, dict(edit.metadata)) for edit in edits] == [("Who?", {})]
    message = describe_rejections(rejections, file.name)
    assert message.startswith("1 row of edits.parquet cannot be used, the first: row 2: target ")
    assert len(read_edits(file, ReadOptions(allow_null_text=True))[0]) == 2
    assert len(read_edits(file, ReadOptions(limit=1, allow_null_text=True))[0]) == 1
    lines: list[str] = []
    common = {"edits": (str(file),), "out": "p"}
    [kept], [about] = _read_edits(CalibrateSpec(**common), lines.append)
    assert (kept, about["edits"], lines[1]) == (edits, 1, message)
    [kept], _ = _read_edits(CalibrateSpec(**common, allow_null_text=True, skip=1), lines.append)
    assert [edit.target for edit in kept] == ["nan"]
    job = EvalJob(source=file, allow_null_text=True)
    assert len(_select_edits(job, Snapshot(0))[0]) == 2
    with pytest.raises(InputError, match=r"no usable edit: 1 row of .* row 1: target "):
        _select_edits(EvalJob(source=[{"prompt": "Who?", "target": "N/A"}]), Snapshot(0))
