"""Rows that were set aside, by reason."""

from pathlib import Path

import pytest

from scen.data import QuarantineFile, Rejection
from scen.errors import IntegrityError
from scen.fs import Storage
from scen.report.read_quarantine import group_reasons, read_quarantine


def write(storage: Storage, name: str, reasons: list[str]) -> None:
    with QuarantineFile(storage.child_uri(f"quarantine/{name}.parquet")) as file:
        rows = [Rejection(i, f"id{i}", "prompt", reason, "raw") for i, reason in enumerate(reasons)]
        file.add(rows)


def test_reasons_of_one_kind_are_counted_together(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    write(storage, "news-00000000", [
        "is empty",
        "edit a is committed with the target 'x'",
        "edit bb is committed with the target 'y z'",
        "is 300 tokens long",
        "is 301 tokens long",
        "is 302 tokens long",
    ])  # fmt: skip
    found = group_reasons(read_quarantine(storage, None))
    assert [(row["rows"], row["row"]) for row in found] == [(3, 3), (2, 1), (1, 0)]
    assert found[1]["reason"] == "edit a is committed with the target 'x'"
    assert found[0]["file"] == "news-00000000.parquet"


def test_a_stream_is_not_another_that_begins_with_its_name(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    for name in ("news-00000000", "news-old-11111111", "streams-22222222"):
        write(storage, name, [name])
    assert [r["reason"] for r in read_quarantine(storage, "news")] == ["news-00000000"]
    assert len(read_quarantine(storage, None)) == 3


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    storage.put_new("quarantine/a-00000000.parquet", b"not parquet")
    with pytest.raises(IntegrityError, match=r"a-00000000\.parquet cannot be read"):
        read_quarantine(storage, None)
