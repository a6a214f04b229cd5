""""""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scen.data.files import MAX_LINE_BYTES
from scen.errors import InputError
from scen.records import Edit

Load = Callable[..., tuple[list[Edit], list[Any]]]


def json_row(n: int, **more: object) -> dict[str, object]:
    return {"id": f"e{n}", "prompt": f"Question {n}?", "target": f"answer {n}", **more}


def line(n: int) -> bytes:
    return json.dumps(json_row(n)).encode() + b"\n"


def test_jsonl_with_bom_crlf_blank_lines_and_no_last_newline(tmp_path: Path, load: Load) -> None:
    path = tmp_path / "edits.jsonl"
    lines = b"\xef\xbb\xbf" + line(1).rstrip() + b"\r\n\n  \n" + line(2).rstrip()
    path.write_bytes(lines)
    edits, rejections = load(path)
    assert [e.id for e in edits] == ["e1", "e2"]
    assert rejections == []


@pytest.mark.parametrize(
    ("bad", "field", "reason"),
    [
        (b'{"prompt": "x", "target": }', "row", "is not valid JSON"),
        (b'{"prompt": "x", "target": "t', "row", "is not valid JSON"),
        (b'{"prompt": "x\xff", "target": "t"}', "row", "is not UTF-8 at byte 13"),
        (b'["x", "t"]', "row", "is not a JSON object"),
        (b"null", "row", "is not a JSON object"),
        (b"\x00\x00", "row", "is not valid JSON"),
        (b'{"prompt": "x", "target": NaN}', "row", "NaN is not JSON"),
        (b'{"prompt": "x", "target": "t", "target": "u"}', "row", "'target' is there twice"),
        (b'{"a":' * 100_000, "row", "is nested too deeply"),
        (b"9" * 5000, "row", "is not valid JSON"),
        (b'{"prompt": "\\ud83d x", "target": "t"}', "prompt", "U+D83D, half of a surrogate pair"),
        (b'{"prompt": "x\\u0000", "target": "t"}', "prompt", "U+0000"),
        (b'{"prompt": "' + b"x" * (5 << 20) + b'"}', "row", "over 4 MiB"),
    ],
)
def test_one_bad_json_line_costs_itself_only(
    bad: bytes, field: str, reason: str, tmp_path: Path, load: Load
) -> None:
    path = tmp_path / "edits.jsonl"
    path.write_bytes(line(1) + bad + b"\n" + line(3))
    edits, rejections = load(path)
    assert [e.id for e in edits] == ["e1", "e3"]
    assert [(r.row, r.field) for r in rejections] == [(2, field)]
    assert reason in rejections[0].reason
    shown = bad if len(bad) < 1 << 20 else bad[:2000]
    assert rejections[0].raw == shown.decode("utf-8", "backslashreplace")


def test_a_json_list_gives_its_elements(tmp_path: Path, load: Load) -> None:
    path = tmp_path / "edits.json"
    rows = [json_row(1, note='a ] and a } and a \\" in text'), json_row(2, metadata={"a": ["{"]})]
    path.write_text(json.dumps(rows, indent=2), encoding="utf-8")
    edits, rejections = load(path)
    assert [e.id for e in edits] == ["e1", "e2"]
    assert edits[0].metadata["note"] == 'a ] and a } and a \\" in text'
    assert rejections == []


def test_one_bad_element_of_a_json_list_costs_itself_only(tmp_path: Path, load: Load) -> None:
    path = tmp_path / "edits.json"
    bad = b'{"prompt": nope},'
    path.write_bytes(b"[" + line(1) + b"," + bad + b"7," + line(4) + b",]")
    edits, rejections = load(path)
    assert [e.id for e in edits] == ["e1", "e4"]
    assert [r.row for r in rejections] == [2, 3, 5]


def test_json_lines_under_the_ending_json(tmp_path: Path, load: Load) -> None:
    path = tmp_path / "edits.json"
    path.write_bytes(line(1) + line(2))
    assert len(load(path)[0]) == 2


@pytest.mark.parametrize("tail", [b"", b'"', b"}", b"] x", b"]]"])
def test_a_json_list_that_breaks_off_is_refused_whole(
    tail: bytes, tmp_path: Path, load: Load
) -> None:
    path = tmp_path / "edits.json"
    path.write_bytes(b"[" + line(1) + b"," + line(2) + tail)
    with pytest.raises(InputError, match=r"edits\.json: the JSON list is not closed"):
        load(path)


def test_an_empty_json_list_is_no_rows(tmp_path: Path, load: Load) -> None:
    path = tmp_path / "edits.json"
    path.write_bytes(b" [ ] ")
    assert load(path) == ([], [])


def test_json_lists_and_their_elements_have_a_size_limit(
    tmp_path: Path, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "edits.json"
    path.write_bytes(b"[" + line(1) + b", " + b" " * MAX_LINE_BYTES + line(2) + b"]")
    edits, rejections = load(path)
    assert [e.id for e in edits] == ["e1"]
    assert [(r.row, len(r.raw)) for r in rejections] == [(2, 2000)]
    monkeypatch.setattr("scen.data.read_json.MAX_LIST_BYTES", MAX_LINE_BYTES)
    with pytest.raises(InputError, match=r"a JSON list may have 4 MiB: save it as \.jsonl"):
        load(path)
