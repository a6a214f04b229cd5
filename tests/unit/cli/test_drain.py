"""`scen drain` on a tiny base."""

import json
from pathlib import Path

import pytest

from scen.cli.main import main
from scen.data.inbox import Inbox
from scen.fs import Storage
from scen.records import Edit

QUICK = ("--set", "evaluation.locality_limit=4", "--set", "evaluation.locality_tokens=4",
         "--set", "expert.steps=6", "--no-tracking")  # fmt: skip
PLACES = [Edit(id=f"e{i}", prompt=f"Who founded place {i}?", target=f"name {i}") for i in range(3)]


def test_waiting_edits_are_committed_and_shown(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = str(tmp_path / "store")
    inbox = Inbox(Storage(uri), "news")
    for edit in PLACES:
        inbox.put(edit)
    inbox.put(Edit(id="long", prompt="Who?", target=" ".join(["word"] * 300)))
    base = ("--base", str(tiny_folder), "--template", "llama2-inst", "--dtype", "float32")
    drain = ["drain", "--store", uri, *base, *QUICK, "--once", "--stream", "news"]
    assert main([*drain, "--wave-size", "2", "--json"]) == 0
    waves = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(wave["number"], wave["committed"]) for wave in waves] == [(0, 2), (1, 1)]
    assert [row["id"] for row in waves[1]["rejections"]] == ["long"]
    assert "tokens long" in inbox.status("long")["reason"]
    assert main(drain) == 0  # nothing waits
    assert capsys.readouterr().out == ""
    assert main(["log", "--store", uri, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["version"] == 2


def test_a_stream_that_would_end_for_good_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["drain", "--store", str(tmp_path), "--on-conflict", "refuse"]) == 2
    assert "quarantine or supersede" in capsys.readouterr().err
