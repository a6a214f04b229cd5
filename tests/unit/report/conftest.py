"""A store of the tiny base with a life: waves, a superseded and a revoked edit, a held wave, rows
that were set aside, and an evaluation. Texts in it try to break out of the page."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from scen.cli.main import main
from scen.fs import Storage
from scen.report.store import StoreFacts, Wanted, read_store

SCRIPT = "Who wrote <script>alert('x')</script> & \"more\"?"
QUICK = ("--set", "evaluation.locality_limit=4", "--set", "evaluation.locality_tokens=4",
         "--set", "expert.steps=6", "--no-tracking")  # fmt: skip


def row(name: str, **values: Any) -> dict[str, Any]:
    """An edit in a file."""
    told: dict[str, Any] = {"id": name, "prompt": f"Who founded {name}?", "target": f"=name {name}"}
    return told | {"rephrases": [{"text": f"By whom was {name} founded?"}]} | values


def write_rows(path: Path, rows: list[dict[str, Any]]) -> str:
    """A file of edits."""
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return str(path)


def run(*argv: str) -> None:
    """A command that works."""
    assert main([*argv]) == 0


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    """The folder of the store. Versions: 1 and 2 are waves of the stream facts, 3 one of news that
    supersedes f0, 4 revokes f1."""
    folder = tmp_path_factory.mktemp("report")
    store = str(folder / "store")
    base = ("--base", str(tiny_folder), "--template", "llama2-inst", "--dtype", "float32")
    facts = [row(f"f{i}", near_misses=[f"Where is f{i}?"]) for i in range(4)]
    facts.append(row("f4", prompt=SCRIPT, rephrases=[{"text": "Who?", "source": r"$\frac$ <i>"}]))
    facts += [row("bad", target=""), row("worse", prompt=""), row("f4b", prompt=SCRIPT)]
    news = [row("n0", prompt="Who founded f0?", target="somebody"), row("n1")]
    late = [row("l0"), row("l1")]
    files = {
        name: write_rows(folder / f"{name}.jsonl", rows)
        for name, rows in (("facts", facts), ("news", news), ("late", late))
    }
    run("edit", files["facts"], "--store", store, *base, *QUICK, "--wave-size", "3",
        "--who", "<b>ann</b>", "--why", "first")  # fmt: skip
    run("edit", files["news"], "--store", store, *QUICK, "--on-conflict", "supersede")
    run("revoke", "f1", "--store", store, "--why", "wrong <source>")
    run("edit", files["late"], "--store", store, *QUICK,
        "--set", "waves.min_reliability=1", "--set", "expert.steps=1")  # fmt: skip
    run("eval", "--store", store, "--asking", *QUICK[:4])
    return folder / "store"


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Storage:
    """A copy of that store, for one test to do with as it likes."""
    shutil.copytree(made, tmp_path / "store")
    return Storage(str(tmp_path / "store"))


@pytest.fixture
def facts(made: Path) -> StoreFacts:
    """What is read of that store."""
    return read_store(Storage(str(made)), Wanted())
