import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scen.errors import InputError
from scen.records import Edit

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
