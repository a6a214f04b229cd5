"""Files that nobody would write: whatever they hold, the good rows come out and all are counted."""

import csv
import io
import json
import math
import re
import tempfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from scen.data import EDIT_SCHEMA, QuarantineFile, Rejection, Validator, edits_to_table, ingest
from scen.errors import InputError
from scen.records import Edit

hundred_files = settings(max_examples=100, deadline=None)

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
anything = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
names = st.sampled_from(EDIT_SCHEMA.names) | st.sampled_from(
    ["src", "alt", "loc", "text", "labels", "target_new", "locality", "requested_rewrite"]
)
objects = st.dictionaries(names | st.text(max_size=8), anything, max_size=6)
# surrogates that stand alone can only be written as JSON escapes
with_surrogates = st.text(st.characters(categories=["Cs", "Lu"]), min_size=1, max_size=5)


def good_row(n: int) -> dict[str, str]:
    """A row that nothing generated here repeats or contradicts."""
    return {"id": f"good-{n}", "prompt": f"Good question number {n}?", "target": f"answer {n}"}


def take(name: str, data: bytes) -> tuple[list[Edit], list[Rejection]] | str:
    """What comes of a file with these bytes, or the message with which it is refused."""
    edits: list[Edit] = []
    rejections: list[Rejection] = []
    with tempfile.TemporaryDirectory() as folder:
        path, quarantine_path = Path(folder) / name, Path(folder) / "quarantine.parquet"
        path.write_bytes(data)
        try:
            with QuarantineFile(quarantine_path) as quarantine:
                for batch in ingest(path, Validator(), batch_size=3):
                    edits += batch.edits
                    rejections += batch.rejections
                    quarantine.add(batch.rejections)
        except InputError as err:
            return str(err).removeprefix(f"{folder}/")
        assert pq.read_table(quarantine_path).num_rows == len(rejections)
    # what is taken can be stored, under its own id
    edits_to_table(edits).validate(full=True)
    assert len({edit.id for edit in edits}) == len(edits)
    return edits, rejections


def good_ids(edits: list[Edit]) -> list[str]:
    return [edit.id for edit in edits if edit.id.startswith("good-")]


bad_json_lines = st.one_of(
    st.binary(min_size=1, max_size=60).map(lambda data: data.replace(b"\n", b"")),
    objects.map(lambda row: json.dumps(row).encode()),
    objects.map(lambda row: json.dumps(row).encode()[:-1]),
    anything.map(lambda value: json.dumps(value, ensure_ascii=True).encode()),
    with_surrogates.map(lambda text: json.dumps({"prompt": text, "target": text}).encode()),
    st.integers(1, 1500).map(lambda depth: b'{"prompt":' + b"[" * depth),
    st.integers(1, 1500).map(lambda depth: b'{"a":' + b"[" * depth + b"]" * depth + b"}"),
)


@hundred_files
@given(st.lists(bad_json_lines, max_size=8), st.randoms(use_true_random=False))
def test_malformed_json_lines(bad: list[bytes], random: Any) -> None:
    good = [json.dumps(good_row(n)).encode() for n in range(3)]
    data = b"\n".join(mix(good, bad, random))
    lines = (line.removeprefix(b"\xef\xbb\xbf") for line in data.split(b"\n"))
    num_rows = sum(1 for line in lines if line.strip())
    result = take("edits.jsonl", data)
    if isinstance(result, str):
        assert re.fullmatch("edits.jsonl: is UTF-(16|32): save it as UTF-8", result)
        assert data.startswith((b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff"))
    else:
        edits, rejections = result
        assert good_ids(edits) == ["good-0", "good-1", "good-2"]
        assert len(edits) + len(rejections) == num_rows


@hundred_files
@given(st.lists(bad_json_lines, max_size=4), st.randoms(use_true_random=False))
def test_malformed_json_lists(bad: list[bytes], random: Any) -> None:
    good = [json.dumps(good_row(n)).encode() for n in range(2)]
    result = take("edits.json", b"[" + b",".join(mix(good, bad, random)) + b"]")
    if isinstance(result, str):
        assert result.startswith("edits.json: the JSON list is not closed")
        # refused only where the junk holds marks of its own
        assert any(mark in junk for junk in bad for mark in b'[]{}"')
    elif all(_is_json(junk) for junk in bad):
        edits, rejections = result
        assert good_ids(edits) == ["good-0", "good-1"]
        assert len(edits) + len(rejections) == len(good) + len(bad)


def mix(good: list[bytes], bad: list[bytes], random: Any) -> list[bytes]:
    """The good lines in their order with the bad ones anywhere between."""
    slots = [True] * len(good) + [False] * len(bad)
    random.shuffle(slots)
    sources = {True: iter(good), False: iter(bad)}
    return [next(sources[is_good]) for is_good in slots]


def _is_json(data: bytes) -> bool:
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return False
    return True


def _csv_line(row: list[str]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerow(row)
    return text.getvalue().removesuffix("\r\n").encode()


cells = st.text(st.characters(codec="utf-8"), max_size=12)
wrong_rows = st.lists(st.lists(cells, min_size=4, max_size=6).map(_csv_line), max_size=8)
broken_rows = st.lists(
    st.one_of(
        st.binary(min_size=1, max_size=40).map(lambda data: data.translate(None, b'\n"') + b",,,"),
        st.sampled_from(
            [b'bad-1,"an open quote,t', b'bad-2,"a quote" too few,t', b"bad-3,,", b"one cell"]
        ),
    ),
    max_size=8,
)


@hundred_files
@given(wrong_rows | broken_rows, st.randoms(use_true_random=False))
def test_malformed_csv(bad: list[bytes], random: Any) -> None:
    good = [_csv_line(list(good_row(n).values())) for n in range(3)]
    result = take("edits.csv", b"id,prompt,target\n" + b"\n".join(mix(good, bad, random)))
    assert not isinstance(result, str)
    edits, rejections = result
    assert good_ids(edits) == ["good-0", "good-1", "good-2"]
    assert (len(edits), len(rejections)) == (3, len(bad))


@hundred_files
@given(st.binary(max_size=400), st.sampled_from(["jsonl", "json", "csv", "parquet", "jsonl.gz"]))
def test_random_bytes_give_rejections_or_a_refusal(data: bytes, ending: str) -> None:
    result = take(f"edits.{ending}", data)
    if isinstance(result, str):
        assert result.startswith(f"edits.{ending}: ")
    else:
        assert result[0] == []


# a type, and a value for the bad rows: each is wrong for some column, or for Python altogether
columns = st.dictionaries(
    names.filter(lambda name: name not in ("id", "prompt", "target")),
    st.sampled_from(
        [
            (pa.string(), "text"),
            (pa.large_string(), ""),
            (pa.int64(), 7),
            (pa.bool_(), True),
            (pa.binary(), b"\xff"),
            (pa.float64(), math.nan),
            (pa.timestamp("ns"), 1),
            (pa.timestamp("s"), 10**12),
            (pa.date32(), 0),
            (pa.decimal128(5, 2), Decimal("1.25")),
            (pa.list_(pa.int64()), [1, None]),
            (pa.map_(pa.string(), pa.int64()), [("a", 1), ("a", 2)]),
            (pa.struct({"text": pa.string()}), {"text": None}),
            (pa.null(), None),
        ]
    ),
    max_size=6,
)


@hundred_files
@given(columns, st.lists(st.binary(max_size=8), max_size=4))
def test_malformed_parquet(columns: dict[str, tuple[Any, Any]], bad: list[bytes]) -> None:
    good = [good_row(0), good_row(1)]
    table = {
        name: pa.array([value] * len(bad) + [None] * len(good), kind)
        for name, (kind, value) in columns.items()
    }
    prompts = [*bad, *(row["prompt"].encode() for row in good)]
    table["prompt"] = pa.array(prompts, pa.binary()).view(pa.string())
    table["target"] = pa.array(["t"] * len(bad) + [row["target"] for row in good])
    table["id"] = pa.array([None] * len(bad) + [row["id"] for row in good])
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(table), sink)
    data = sink.getvalue().to_pybytes()
    result = take("edits.parquet", data)
    assert not isinstance(result, str)
    edits, rejections = result
    assert good_ids(edits) == ["good-0", "good-1"]
    assert len(edits) + len(rejections) == len(prompts)


@hundred_files
@given(st.data())
def test_parquet_cut_or_with_a_byte_changed(data: st.DataObject) -> None:
    edits = [Edit(id=f"e{n}", prompt=f"Question {n}?", target=f"answer {n}") for n in range(3)]
    sink = pa.BufferOutputStream()
    pq.write_table(edits_to_table(edits), sink, write_page_checksum=True)
    whole = sink.getvalue().to_pybytes()
    spot = data.draw(st.integers(0, len(whole) - 1))
    new = data.draw(st.none() | st.integers(0, 255))
    damaged = whole[:spot] + (b"" if new is None else bytes([new]) + whole[spot + 1 :])
    result = take("edits.parquet", damaged)
    if isinstance(result, str):
        assert result.startswith("edits.parquet: ")
    else:
        edits_out, rejections = result
        assert len(edits_out) + len(rejections) == len(edits)
