"""A small benchmark on the tiny base: six edits, two that are never made, a few other questions."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import WORDS
from scen.benchmark.settings import BenchmarkSettings, RowStore
from scen.fs import Storage
from scen.records import Edit

MakeBenchmark = Callable[..., BenchmarkSettings]
QUICK = {"method": "scen-lr", "expert": {"layer": 3, "lr": 0.05, "steps": 40, "stop_loss": 0.01}}


def write_lines(path: Path, rows: list[dict[str, Any]]) -> str:
    """A JSONL file of rows."""
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def edit_file(edits: list[Edit], tmp_path: Path) -> str:
    """The six edits and two more, as a file."""
    rows: list[dict[str, Any]] = [
        {
            "id": edit.id,
            "prompt": edit.prompt,
            "target": edit.target,
            "subject": edit.subject,
            "rephrases": [rephrase.text for rephrase in edit.rephrases],
            "rephrase_src": [rephrase.source for rephrase in edit.rephrases],
            "subject_locality": [{"prompt": text} for text in edit.near_misses],
        }
        for edit in edits
    ]
    rows += [
        {"id": f"more-{w}", "prompt": f"Who painted {w}?", "target": WORDS[0]} for w in WORDS[7:9]
    ]
    return write_lines(tmp_path / "edits.jsonl", rows)


@pytest.fixture
def make_benchmark(edit_file: str, tmp_path: Path) -> MakeBenchmark:
    """The benchmark, some fields otherwise."""
    unrelated = write_lines(
        tmp_path / "unrelated.jsonl", [{"prompt": f"What is a {word}?"} for word in WORDS[:4]]
    )

    def make(**fields: Any) -> BenchmarkSettings:
        given: dict[str, Any] = {
            "name": "small",
            "edits": edit_file,
            "unrelated": unrelated,
            "sizes": [6],
            "same_kind": {"skip": 6, "count": 2},
            "latency_prompts": 2,
            "upstream_limit": 2,
            "methods": [
                {"name": "base", "editor": "base"},
                {"name": "platform", "editor": "platform", "settings": QUICK},
            ],
        }
        return BenchmarkSettings.model_validate(given | fields)

    return make


@pytest.fixture
def rows(tmp_path: Path) -> RowStore:
    """An empty place for rows."""
    return RowStore(Storage(str(tmp_path / "rows")))
