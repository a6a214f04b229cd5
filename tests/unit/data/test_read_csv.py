""""""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from scen.errors import InputError
from scen.records import Edit, Rephrase

Load = Callable[..., tuple[list[Edit], list[Any]]]


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
    "header", ["question,answer", "prompt;answer", "prompt,target,prompt", "prompt,target,"]
)
def test_a_csv_without_the_columns_is_refused(header: str, tmp_path: Path, load: Load) -> None:
    path = tmp_path / "edits.csv"
    path.write_text(header + "\na,b\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"edits\.csv: .*(columns|header)"):
        load(path)


@pytest.mark.parametrize(
    "text",
    [
        'prompt;target\n"Who; me?";Ann, B\n',
        "prompt\ttarget\nWho; me?\tAnn, B\n",
        "prompt|target\nWho; me?|Ann, B\n",
        'sep=;\r\nprompt;target\r\n"Who; me?";Ann, B\r\n',
        'sep=,\nprompt,target\nWho; me?,"Ann, B"\n',
        "SEP=^\nprompt^target\nWho; me?^Ann, B\n",
        ',prompt,target\n0,Who; me?,"Ann, B"\n',
        ';prompt;target\n0;"Who; me?";"Ann, B"\n',
        '"prompt";"target"\n"Who; me?";"Ann, B"\n',
    ],
)
def test_what_spreadsheets_and_pandas_write(text: str, tmp_path: Path, load: Load) -> None:
    """Other delimiters, Excel's line that names one, and an index without a name."""
    file = tmp_path / "edits.csv"
    file.write_text(text, newline="")
    edits, rejections = load(file)
    assert rejections == []
    assert [(e.prompt, e.target, dict(e.metadata)) for e in edits] == [("Who; me?", "Ann, B", {})]


def test_a_quoted_null_word_behind_another_delimiter(tmp_path: Path, load: Load) -> None:
    file = tmp_path / "edits.csv"
    file.write_text('prompt;target\nWho?;"None"\nWhat?;None\n')
    edits, rejections = load(file)
    assert [edit.target for edit in edits] == ["None"]
    assert [rejection.row for rejection in rejections] == [3]


@pytest.mark.parametrize("text", ["sep=;\n", "sep=;", "prompt\n", "a,,b\n"])
def test_a_header_that_is_none(text: str, tmp_path: Path, load: Load) -> None:
    file = tmp_path / "edits.csv"
    file.write_text(text)
    with pytest.raises(InputError):
        load(file)
