"""JSON lines and documents: rows come out whatever stands around them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scen.data.files import CHUNK_BYTES, MAX_LINE_BYTES
from scen.data.read_json import parse_json_strict
from scen.data.rows import FieldError
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
        (b'{"prompt": "x", "target": NaN}', "target", "is NaN or infinite"),
        (
            b'{"prompt": "x", "target": "t", "metadata": {"n": [1, 1e999]}}',
            "metadata.n[1]",
            "infin",
        ),
        (b'{"prompt": "x", "target": "t", "metadata": {"n": -Infinity}}', "metadata.n", "infinite"),
        (b'{"prompt": "x", "target": "t", "n": {"a": [{"b": NaN}]}}', "n.a[0].b", "infinite"),
        (b'{"prompt": "x", "target": "t", "target": "u"}', "target", "is there twice"),
        (b'{"a": [{}, {"b": 1, "c": 2, "b": 1}]}', "a[1].b", "is there twice in one object"),
        (b'{"prompt": "x", "target": "t", "metadata": {"n": 1, "n": 2}}', "metadata.n", "twice"),
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


@pytest.mark.parametrize(
    ("text", "field", "reason"),
    [
        ('{"a": NaN}', "a", "is NaN or infinite"),
        ("[1, [Infinity]]", "[1][0]", "is NaN or infinite"),
        ('{"a": {"b": 1e400}}', "a.b", "is NaN or infinite"),
        ("NaN", "row", "is NaN or infinite"),
        ('{"a": 1, "a": 1}', "a", "is there twice"),
        ('{"messages": [{"role": "user", "role": "system"}]}', "messages[0].role", "twice"),
        ("{", "row", "is not valid JSON"),
        (b'{"a": "\xff"}', "row", "is not UTF-8"),
        ("[" * 100_000, "row", "nested too deeply"),
    ],
)
def test_strict_json_names_the_field(text: Any, field: str, reason: str) -> None:
    with pytest.raises(FieldError, match=reason) as caught:
        parse_json_strict(text)
    assert caught.value.field == field
    assert str(caught.value) == f"{field} {caught.value.reason}"


@pytest.mark.parametrize("text", ['{"a": [1.5, -2e10, null, {"b": "NaN"}]}', "3", '"x"', "[]"])
def test_strict_json_reads_json(text: str) -> None:
    assert parse_json_strict(text) == json.loads(text) == parse_json_strict(text.encode())


ROWS = [json_row(1, note='] } " [ {'), json_row(2, metadata={"a": ["{"]}), json_row(3)]
WRAPPED: list[Any] = [
    ROWS,
    {"data": ROWS},
    {"version": "1.0", "n": [1, 2], "about": {"data": [{"no": 1}]}, "edits": ROWS, "end": None},
    {"data": "text", "examples": ROWS},
]


@pytest.mark.parametrize("name", ["edits.json", "edits.jsonl", "edits.ndjson"])
@pytest.mark.parametrize("indent", [None, 0, 2, "\t"])
@pytest.mark.parametrize("document", WRAPPED, ids=range(len(WRAPPED)))
def test_documents_give_the_rows_they_hold(
    document: Any, indent: Any, name: str, tmp_path: Path, load: Load
) -> None:
    path = tmp_path / name
    path.write_text("\ufeff" + json.dumps(document, indent=indent) + "\n", encoding="utf-8")
    edits, rejections = load(path)
    assert rejections == []
    assert [e.id for e in edits] == ["e1", "e2", "e3"]
    assert edits[0].metadata["note"] == '] } " [ {'


def test_a_wrapped_list_of_one_long_line(tmp_path: Path, load: Load) -> None:
    path = tmp_path / "edits.jsonl"
    rows = [json_row(n, note="x" * 5000) for n in range(CHUNK_BYTES // 4000)]
    path.write_text(json.dumps({"data": rows}))
    assert len(load(path)[0]) == len(rows)


def test_one_row_a_line_within_a_list(tmp_path: Path, load: Load) -> None:
    path = tmp_path / "edits.jsonl"
    path.write_bytes(b"[\n" + line(1).rstrip() + b",\n" + line(2) + b"]\n")
    assert [e.id for e in load(path)[0]] == ["e1", "e2"]


def test_objects_over_several_lines_one_after_the_other(tmp_path: Path, load: Load) -> None:
    path = tmp_path / "edits.jsonl"
    path.write_text("\n".join(json.dumps(row, indent=2) for row in ROWS))
    assert [e.id for e in load(path)[0]] == ["e1", "e2", "e3"]
    path.write_text(json.dumps(ROWS[0], indent=2))
    assert [e.id for e in load(path)[0]] == ["e1"]


def test_a_bad_row_of_a_wrapped_list_costs_itself_only(tmp_path: Path, load: Load) -> None:
    path = tmp_path / "edits.json"
    path.write_text(
        json.dumps({"data": [*ROWS, {"prompt": "p", "target": float("nan")}]}, indent=1)
    )
    edits, rejections = load(path)
    assert len(edits) == 3
    assert [(r.row, r.field) for r in rejections] == [(4, "target")]


@pytest.mark.parametrize("name", ["edits.json", "edits.jsonl"])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (json.dumps({"a": 1, "b": {"c": []}}, indent=2), r"keys \['a', 'b'\], none of which holds"),
        (json.dumps({"a": [{"x": 1}], "b": [{"x": 1}]}, indent=2), "several of which hold a list"),
        (json.dumps({"data": ROWS}, indent=2)[:-20], "is not closed"),
        (json.dumps(ROWS, indent=2)[:-20], "the JSON list is not closed"),
    ],
)
def test_other_documents_are_refused_with_one_message(
    text: str, message: str, name: str, tmp_path: Path, load: Load
) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        load(path)


@pytest.mark.parametrize(
    "first", [b"{", b"[", b'{"prompt": "x", "rephrases": [', b'{"prompt": "x",']
)
def test_a_broken_first_line_costs_itself_only(first: bytes, tmp_path: Path, load: Load) -> None:
    path = tmp_path / "edits.jsonl"
    path.write_bytes(first + b"\n" + line(2) + line(3))
    edits, rejections = load(path)
    assert [e.id for e in edits] == ["e2", "e3"]
    assert [r.row for r in rejections] == [1]


def test_joined_files_with_marks_in_the_middle(tmp_path: Path, load: Load) -> None:
    path = tmp_path / "edits.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + line(1) + b"\xef\xbb\xbf" + line(2))
    edits, rejections = load(path)
    assert [e.id for e in edits] == ["e1", "e2"]
    assert rejections == []
