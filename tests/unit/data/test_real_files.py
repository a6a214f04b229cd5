"""What real files hold: indexes, headers in the middle, missing values, characters that hide."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd  # type: ignore[import-untyped]
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scen.data import Validator
from scen.data.read import read_prompts
from scen.errors import InputError
from scen.records import Edit

Load = Callable[..., tuple[list[Edit], list[Any]]]
ALPHA = {"prompt": "What colour is the Alpha flag?", "target": "teal"}
BETA = {"prompt": "What colour is the Beta flag?", "target": "ochre"}


def write_lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_parquet(path: Path, columns: dict[str, Any], pandas: Any = None) -> Path:
    """A table with the metadata that pandas writes, where some are given."""
    table = pa.table(columns)
    if pandas is not None:
        about = pandas if isinstance(pandas, bytes) else json.dumps(pandas).encode()
        table = table.replace_schema_metadata({"pandas": about})
    pq.write_table(table, path)
    return path


def columns(**more: Any) -> dict[str, Any]:
    return {name: [ALPHA[name], BETA[name]] for name in ("prompt", "target")} | more


# Pandas indexes


@pytest.mark.parametrize(
    ("more", "pandas"),
    [
        ({"__index_level_0__": [7, 9]}, {"index_columns": ["__index_level_0__"]}),
        ({"sampled at": [7, 9]}, {"index_columns": ["sampled at"]}),
        ({"shard": ["a", "b"], "n": [3, 1]}, {"index_columns": ["shard", "n"]}),
        ({}, {"index_columns": [{"kind": "range", "start": 4, "stop": 6, "step": 1}]}),
        ({"__index_level_0__": [7, 9], "__index_level_1__": [1, 2]}, None),
        ({"Unnamed: 0": [0, 1]}, None),
        ({}, b"no json"),
        ({}, {"columns": []}),
        ({}, {"index_columns": None}),
    ],
)
def test_an_index_is_no_part_of_an_edit(
    more: dict[str, Any], pandas: Any, tmp_path: Path, load: Load
) -> None:
    plain, _ = load(write_parquet(tmp_path / "plain.parquet", columns()))
    edits, rejections = load(write_parquet(tmp_path / "index.parquet", columns(**more), pandas))
    assert rejections == []
    assert [edit.digest for edit in edits] == [edit.digest for edit in plain]
    assert all(edit.metadata == {} for edit in edits)


def test_frames_of_pandas_with_any_index_give_the_same_edits(tmp_path: Path, load: Load) -> None:
    frame = pd.DataFrame([ALPHA, BETA, {"prompt": "Why?", "target": "So."}])
    frames = [
        frame,
        frame.set_index(pd.Index([5, 3, 9])),
        frame.set_index(pd.Index(["x", "y", "z"], name="sample")),
        frame.set_index(pd.MultiIndex.from_tuples([(1, "a"), (1, "b"), (2, "a")])),
        frame.assign(n=[3, 1, 2]).set_index("n"),
        frame.set_index(pd.RangeIndex(10, 40, 10)),
        frame.set_index(pd.date_range("2026-01-01", periods=3)),
    ]
    digests = set()
    for number, one in enumerate(frames):
        path = tmp_path / f"{number}.parquet"
        one.to_parquet(path)
        edits, rejections = load(path)
        assert rejections == []
        digests.add(tuple(edit.digest for edit in edits))
    assert len(digests) == 1


@pytest.mark.parametrize("name", ["id", "prompt", "subject", "target"])
def test_a_field_that_is_an_index_too_is_kept(name: str, tmp_path: Path, load: Load) -> None:
    table = columns(id=["a", "b"], subject=["Alpha", "Beta"])
    path = write_parquet(tmp_path / "edits.parquet", table, {"index_columns": [name]})
    edits, rejections = load(path)
    assert rejections == []
    assert [edit.id for edit in edits] == ["a", "b"]
    assert [edit.subject for edit in edits] == ["Alpha", "Beta"]


def test_other_columns_stay_metadata(tmp_path: Path, load: Load) -> None:
    table = columns(page=[1, 2], __index_level_0__=[5, 6])
    path = write_parquet(tmp_path / "e.parquet", table, {"index_columns": ["__index_level_0__"]})
    assert [edit.metadata for edit in load(path)[0]] == [{"page": "1"}, {"page": "2"}]


# Headers in the middle


@pytest.mark.parametrize(
    "header",
    [
        "prompt,target,id",
        "Prompt,TARGET,Id",
        " prompt , target ,id",
        '"prompt","target","id"',
        '"""prompt""","""target""",id',
        "'prompt','target',id",
        "\ufeffprompt,target,id",
        "prompt\u200b,target,id",
        "target,prompt,id",
    ],
)
@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_a_header_in_the_middle_is_set_aside(
    header: str, ending: str, tmp_path: Path, load: Load
) -> None:
    path = tmp_path / f"edits.{ending}"
    lines = ["prompt,target,id", "Who?,Ann,e1", header, "Where?,Here,e2"]
    text = "\n".join(lines)
    path.write_text(text.replace(",", "\t") if ending == "tsv" else text, encoding="utf-8")
    edits, rejections = load(path)
    assert [edit.id for edit in edits] == ["e1", "e2"]
    assert [(r.row, r.field) for r in rejections] == [(3, "row")]
    assert "repeats the names of the columns" in rejections[0].reason


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "prompt", "target": "target"},
        {"prompt": "Prompt", "target": " TARGET ", "id": "id"},
        {"prompt": '"prompt"', "target": "'target'", "n": 3},
        {"src": "src", "alt": "alt"},
        {"prompt": "prompt", "target_new": "target_new", "subject": "subject"},
        {"text": "text", "labels": "labels"},
    ],
)
def test_a_header_as_a_row_of_json_is_set_aside(
    row: dict[str, Any], tmp_path: Path, load: Load
) -> None:
    edits, rejections = load(write_lines(tmp_path / "edits.jsonl", ALPHA, row, BETA))
    assert len(edits) == 2
    assert "repeats the names of the columns" in rejections[0].reason


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Which column holds the answer?", "target": "target"},
        {"prompt": "prompt", "target": "an input"},
        {"prompt": "target", "target": "target"},
    ],
)
def test_words_of_a_header_may_be_asked_for(
    row: dict[str, Any], tmp_path: Path, load: Load
) -> None:
    assert load(write_lines(tmp_path / "edits.jsonl", row))[1] == []


# Missing values

NULLS = [
    *("nan", "NaN", "NULL", "null", "None", "none", "#N/A", "N/A", "n/a", "<NA>", "NA", "#NA"),
    *("NaT", "\\N", "-nan", "(null)", "#REF!", "#DIV/0!", "#VALUE!", " nan "),
]


@pytest.mark.parametrize("word", NULLS)
@pytest.mark.parametrize("field", ["prompt", "target", "subject"])
def test_a_missing_value_is_set_aside(word: str, field: str, tmp_path: Path, load: Load) -> None:
    row = {"prompt": "Who?", "target": "Ann", "subject": "mill", field: word}
    text = f"{','.join(row)}\n{','.join(row.values())}\n"
    (tmp_path / "edits.csv").write_text(text)
    write_lines(tmp_path / "edits.jsonl", row)
    write_parquet(tmp_path / "edits.parquet", {name: [value] for name, value in row.items()})
    for name in ("edits.csv", "edits.jsonl", "edits.parquet"):
        edits, [rejection] = load(tmp_path / name)
        assert edits == []
        assert rejection.field == field
        assert f"is {word.strip()!r}, as programs write a missing value" in rejection.reason
        [edit], _ = load(tmp_path / name, Validator(allow_null_text=True))
        assert getattr(edit, field) == word.strip()


@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_a_quoted_word_of_csv_is_meant(delimiter: str, tmp_path: Path, load: Load) -> None:
    path = tmp_path / ("edits.csv" if delimiter == "," else "edits.tsv")
    rows = [
        ["id", "prompt", "target", "note"],
        ["e1", '"How many, moons has ""it""?"', '"None"', '"NA"'],
        ["e2", "Which symbol?", "NA", '"NA"'],
        ["e3", '"two\nlines?"', '"nan"', "None"],
        ["e4", "Why?", "NULL", ""],
    ]
    path.write_text("\n".join(delimiter.join(row) for row in rows) + "\n")
    edits, rejections = load(path)
    assert [(e.id, e.target, dict(e.metadata)) for e in edits] == [
        ("e1", "None", {"note": "NA"}),
        ("e3", "nan", {"note": "None"}),
    ]
    assert [r.id for r in rejections] == ["e2", "e4"]
    assert all(type(e.target) is str and type(e.metadata["note"]) is str for e in edits)


@pytest.mark.parametrize(
    "word", ["Na", "Nan", "nano", "nothing", "zero", "Nil", "N/A-12", "nullable"]
)
def test_words_that_are_no_missing_value(word: str, tmp_path: Path, load: Load) -> None:
    path = write_lines(tmp_path / "edits.jsonl", {"prompt": "Who?", "target": word})
    assert load(path)[0][0].target == word


def test_metadata_holds_no_nan(tmp_path: Path, load: Load) -> None:
    validator = Validator()
    rows: Any = [{**ALPHA, "n": float("nan")}, {**BETA, "n": [1, {"x": float("inf")}]}]
    edits, rejections = load(rows, validator)
    assert edits == []
    assert [r.field for r in rejections] == ["metadata.n", "metadata.n"]
    assert "is NaN or infinite" in rejections[0].reason


# Characters that hide


@pytest.mark.parametrize(
    ("char", "name"),
    [
        ("\u200b", "U+200B ZERO WIDTH SPACE"),
        ("\u200c", "U+200C ZERO WIDTH NON-JOINER"),
        ("\u200d", "U+200D ZERO WIDTH JOINER"),
        ("\u200e", "U+200E LEFT-TO-RIGHT MARK"),
        ("\u202e", "U+202E RIGHT-TO-LEFT OVERRIDE"),
        ("\u2066", "U+2066 LEFT-TO-RIGHT ISOLATE"),
        ("\u00ad", "U+00AD SOFT HYPHEN"),
        ("\ufeff", "U+FEFF ZERO WIDTH NO-BREAK SPACE"),
        ("\u2060", "U+2060 WORD JOINER"),
        ("\ufe0f", "U+FE0F VARIATION SELECTOR-16"),
        ("\U000e0041", "U+E0041 TAG LATIN CAPITAL LETTER A"),
        ("\u034f", "U+034F COMBINING GRAPHEME JOINER"),
    ],
)
@pytest.mark.parametrize("is_first", [True, False])
def test_a_hidden_character_hides_no_contradiction(
    char: str, name: str, is_first: bool, tmp_path: Path, load: Load
) -> None:
    odd = {"prompt": f"What colour is the Al{char}pha flag?", "target": "plum"}
    rows = [odd, ALPHA] if is_first else [ALPHA, odd]
    edits, [rejection] = load(write_lines(tmp_path / "edits.jsonl", *rows))
    assert len(edits) == 1
    assert rejection.field == "target"
    assert f"contradicts row 1: the same prompt but for {name}" in rejection.reason


def test_a_hidden_character_hides_no_repetition(tmp_path: Path, load: Load) -> None:
    rows = [ALPHA, {**ALPHA, "target": "te\u200bal"}]
    _, [rejection] = load(write_lines(tmp_path / "edits.jsonl", *rows))
    assert rejection.field == "prompt"
    assert "the same prompt and target but for U+200B ZERO WIDTH SPACE" in rejection.reason


def test_what_reads_differently_is_no_contradiction(tmp_path: Path, load: Load) -> None:
    prompts = [
        "What is 2⁵?",
        "What is 25?",
        "What is 2₅?",
        "What is ½?",
        "What is 1/2?",
        "②?",
        "2?",
    ]
    rows = [{"prompt": prompt, "target": f"t{n}"} for n, prompt in enumerate(prompts)]
    edits, rejections = load(write_lines(tmp_path / "edits.jsonl", *rows))
    assert rejections == []
    assert len(edits) == len(prompts)


# Files of prompts


PROMPTS = ["Line one\u2028line two?", "Who sails?", "Who\u0009swims?"]


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n  \n"])
def test_prompts_are_read_as_edits_are(mark: str, end: str, tmp_path: Path) -> None:
    texts = {
        "a.txt": PROMPTS,
        "a.jsonl": [json.dumps({"prompt": text}, ensure_ascii=False) for text in PROMPTS],
        "b.jsonl": [json.dumps({"question": text, "n": 1}) for text in PROMPTS],
    }
    for name, lines in texts.items():
        path = tmp_path / name
        path.write_bytes((mark + "".join(line + end for line in lines)).encode())
        assert read_prompts(path) == PROMPTS
        assert read_prompts(path, 2) == PROMPTS[:2]


def test_prompts_in_every_format_of_edits(tmp_path: Path) -> None:
    rows = [{"prompt": text, "answer": "x"} for text in PROMPTS]
    (tmp_path / "a.json").write_text(json.dumps({"data": rows}, indent=2))
    (tmp_path / "b.json").write_text(json.dumps(rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "c.parquet")
    sink = io.StringIO()
    csv.writer(sink).writerows([["text", "n"], *([text, "1"] for text in PROMPTS)])
    (tmp_path / "d.csv").write_text("\ufeff" + sink.getvalue(), encoding="utf-8")
    for name in ("a.json", "b.json", "c.parquet", "d.csv"):
        assert read_prompts(tmp_path / name) == PROMPTS
    assert read_prompts((tmp_path / "a.json").as_uri()) == PROMPTS


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.txt", "Who?\n".encode("utf-16"), "is UTF-16: save it as UTF-8"),
        ("a.txt", "Who?\n".encode("utf-16-le"), "is UTF-16: save it as UTF-8"),
        ("a.jsonl", '{"prompt": "Who?"}\n'.encode("utf-16-be"), "is UTF-16: save it as UTF-8"),
        ("a.txt", "Who?\n".encode("utf-32"), "is UTF-32: save it as UTF-8"),
        ("a.csv", "prompt\nWho?\n".encode("utf-32-le"), "is UTF-32: save it as UTF-8"),
        ("a.jsonl", '{"prompt": "Who?"}\n'.encode("utf-32-be"), "is UTF-32: save it as UTF-8"),
        ("a.txt", b"Who?\ncaf\xe9?\n", "line 2 is not UTF-8"),
        ("a.txt", b"Who?\na\x00b\n", r"line 2 prompt holds the character U\+0000"),
        ("a.jsonl", b'{"prompt": "a", "prompt": "b"}', "line 1: prompt is there twice"),
        ("a.jsonl", b'{"prompt": "a"}\n{"prompt": "b", "n": NaN}', "line 2: n is NaN"),
        ("a.jsonl", b'{"prompt": "a"}\n{"promt": "b"}', "line 2 has no text in any of the fields"),
        ("a.jsonl", b'{"prompt": "a"}\n7', "line 2: row is not a JSON object"),
        ("a.csv", b"name\nWho?\n", "has none of the columns prompt, question, text"),
        ("a.txt", b"", "is empty"),
        ("a.jsonl", b'{"a": 1,\n "b": 2}', "none of which holds a list of rows"),
    ],
)
def test_a_bad_file_of_prompts_is_refused(
    name: str, data: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=message):
        read_prompts(tmp_path / name)


def test_a_target_with_a_control_token_is_set_aside(tmp_path: Path, load: Load) -> None:
    def names(text: str) -> list[str]:
        return [name for name in ("</s>", "<|im_end|>") if name in text]

    rows = [ALPHA, {**BETA, "target": "It is <|im_end|>"}, {"prompt": "</s>?", "target": "a mark"}]
    path = write_lines(tmp_path / "edits.jsonl", *rows)
    edits, [rejection] = load(path, Validator(control_names=names))
    assert [edit.target for edit in edits] == ["teal", "a mark"]
    assert (rejection.row, rejection.field) == (2, "target")
    assert rejection.reason.startswith("holds <|im_end|>, a control token")


def test_prompts_beyond_the_limit_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "a?"}\n{"prompt": "b?"}\nbroken')
    assert read_prompts(path, 2) == ["a?", "b?"]
    assert read_prompts(path, 0) == []
