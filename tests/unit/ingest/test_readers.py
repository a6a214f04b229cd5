import gzip
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scen.errors import InputError
from scen.ingest import edits_to_table
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


def json_row(n: int, **more: object) -> dict[str, object]:
    return {"id": f"e{n}", "prompt": f"Question {n}?", "target": f"answer {n}", **more}


def line(n: int) -> bytes:
    return json.dumps(json_row(n)).encode() + b"\n"


def test_parquet_of_our_schema_comes_back_equal(tmp_path: Path, load: Load) -> None:
    pq.write_table(edits_to_table(EDITS), tmp_path / "edits.parquet")
    assert load(tmp_path / "edits.parquet") == (EDITS, [])


def test_a_uri_reads_like_a_path(tmp_path: Path, load: Load) -> None:
    path = tmp_path / "edits.parquet"
    pq.write_table(edits_to_table(EDITS), path)
    assert load(path.as_uri()) == (EDITS, [])


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


def test_csv_with_lists_quotes_and_line_breaks(tmp_path: Path, load: Load) -> None:
    path = tmp_path / "edits.csv"
    path.write_text(
        "id,prompt,target,rephrases,metadata,valid_from,subject\n"
        'e1,"Who said ""yes, no""?",Ann,"[""Who?"", {""text"": ""Whom?"", ""source"": ""orig""}]",'
        '"{""relation"": ""said""}",2026-01-01,\n'
        'e2,"two\nlines",Bob,,,,Bob\n',
        encoding="utf-8",
    )
    edits, rejections = load(path)
    assert rejections == []
    assert edits[0].prompt == 'Who said "yes, no"?'
    assert edits[0].rephrases == (Rephrase("Who?"), Rephrase("Whom?", "orig"))
    assert edits[0].metadata == {"relation": "said"}
    assert edits[0].valid_from == datetime(2026, 1, 1, tzinfo=UTC)
    assert (edits[1].prompt, edits[1].subject) == ("two\nlines", "Bob")


@pytest.mark.parametrize(
    ("bad", "field", "reason"),
    [
        (b"e2,p2", "row", "has 2 cells, the header 4"),
        (b"e2,p2,t2,s,extra", "row", "has 5 cells, the header 4"),
        (b'e2,"p2,t2,s', "row", "is not valid CSV"),
        (b'e2,"p2" no,t2,s', "row", "is not valid CSV"),
        (b"e2,p\xff2,t2,s", "prompt", "is not UTF-8"),
        (b"e2,p\x002,t2,s", "prompt", "U+0000"),
        (b"e2,,t2,s", "prompt", "is missing"),
        (b"e2," + b"p" * 200_000 + b",t2,s", "row", "field larger than"),
        (b"e2," + b"p" * (5 << 20) + b",t2,s", "row", "over 4 MiB"),
    ],
)
def test_one_bad_csv_row_costs_itself_only(
    bad: bytes, field: str, reason: str, tmp_path: Path, load: Load
) -> None:
    path = tmp_path / "edits.csv"
    rows = [b"id,prompt,target,subject", b"e1,p1,t1,s1", bad, b'e3,"p3, too",t3,s3', b"e4,p4,t4,"]
    path.write_bytes(b"\n".join(rows))
    edits, rejections = load(path)
    assert [e.id for e in edits] == ["e1", "e3", "e4"]
    assert [(r.row, r.field) for r in rejections] == [(3, field)]
    assert reason in rejections[0].reason


def test_a_csv_list_that_is_no_json_is_rejected(tmp_path: Path, load: Load) -> None:
    path = tmp_path / "edits.csv"
    path.write_text("prompt,target,rephrases\np1,t1,[who\np2,t2,who\n", encoding="utf-8")
    _, rejections = load(path)
    assert [r.field for r in rejections] == ["rephrases", "rephrases"]
    assert "is not JSON text" in rejections[0].reason
    assert "must be a list, not a string" in rejections[1].reason


def test_an_open_quote_takes_at_most_a_thousand_lines_with_it(tmp_path: Path, load: Load) -> None:
    path = tmp_path / "edits.csv"
    long = '"' + "x\n" * 1000 + '"'
    path.write_text(f"prompt,target\n{long},t\np2,t2\n", encoding="utf-8")
    edits, rejections = load(path)
    assert [e.prompt for e in edits] == ["p2"]
    assert (rejections[0].row, len(rejections)) == (2, 1001)


@pytest.mark.parametrize(
    "header", ["question,answer", "prompt;target", "prompt,target,prompt", "prompt,target,"]
)
def test_a_csv_without_the_columns_is_refused(header: str, tmp_path: Path, load: Load) -> None:
    path = tmp_path / "edits.csv"
    path.write_text(header + "\na,b\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"edits\.csv: .*(columns|header)"):
        load(path)


def test_packed_text_is_unpacked(tmp_path: Path, load: Load) -> None:
    path = tmp_path / "edits.jsonl.gz"
    path.write_bytes(gzip.compress(line(1) + line(2)))
    assert len(load(path)[0]) == 2


def test_packed_text_that_breaks_off_is_refused(tmp_path: Path, load: Load) -> None:
    path = tmp_path / "edits.jsonl.gz"
    path.write_bytes(gzip.compress(line(1) + line(2))[:-12])
    with pytest.raises(InputError, match=r"edits\.jsonl\.gz: cannot be read"):
        load(path)


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


def test_a_parquet_with_other_columns_is_refused(tmp_path: Path, load: Load) -> None:
    path = tmp_path / "edits.parquet"
    pq.write_table(pa.table({"question": ["q"], "answer": ["a"]}), path)
    with pytest.raises(InputError, match="name the question column `prompt`"):
        load(path)
