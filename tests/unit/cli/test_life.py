"""The commands about the life of edits: what they do, print, and refuse. No base is loaded."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from scen.cli.main import main
from scen.cli.output import out
from scen.fs import Storage
from scen.ledger.actions import os_user
from scen.ledger.ledger import WaveCommit, create_or_open, open_ledger
from scen.ledger.manifest import StoreManifest
from scen.ledger.tensors import save_bundle
from scen.records import Edit

BASE = {"name": "tiny", "fingerprint": "f" * 64, "template": "plain", "dtype": "float32"}
DUE = datetime(2026, 6, 1, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path) -> str:
    """Version 1: a0, a1 (until June 2026) and a2; version 2: b0, which takes the place of a0."""
    storage = Storage(str(tmp_path / "store"))
    ledger = create_or_open(storage, StoreManifest.new(BASE, {}, {}))
    first = [Edit(f"a{i}", f"Who is {i}?", f"name {i}", author="ann") for i in range(3)]
    first[1] = Edit("a1", "Who is 1?", "name 1", valid_until=DUE)
    waves = [("a", first, {}), ("b", [Edit("b0", "Who is 0?", "[red]other")], {"a0": "b0"})]
    for index, (key, edits, supersedes) in enumerate(waves):
        bundle = save_bundle(storage, {"key": torch.full((len(edits), 2), float(index))})
        wave = WaveCommit(key, f"s{index}", index, bundle, edits, supersedes=supersedes)
        ledger.commit(wave, index)
    return storage.uri


def told(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    """What a command prints with --json, alone on stdout."""
    assert main([*argv, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_revoke_and_rollback(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["revoke", "a1", "b0", "--store", store, "--why", "wrong", "--who", "eve"]
    plan = told(capsys, *argv, "--dry-run")
    done = told(capsys, *argv)
    assert plan["changed"] == done["changed"] == {"revoked": ["a1", "b0"]}
    assert (plan["version"], plan["dry_run"], done["version"]) == (2, True, 3)
    back = told(capsys, "rollback", "1", "--store", store, "--why", "all back")
    assert back["changed"] == {"restored": ["a0", "a1"]}
    assert told(capsys, "rollback", "1", "--store", store, "--why", "x")["changed"] == {}
    commits = told(capsys, "log", "--store", store)["commits"]
    assert [(c["action"], c["why"], c["who"]) for c in commits[2:]] == [
        ("revoke", "wrong", "eve"),
        ("rollback", "all back", os_user()),
    ]


def test_expire(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    early = (DUE - timedelta(seconds=1)).isoformat()
    assert told(capsys, "expire", "--store", store, "--at", early)["changed"] == {}
    assert told(capsys, "expire", "--store", store, "--at", "2026-06-01", "--dry-run")[
        "changed"
    ] == {"expired": ["a1"]}
    assert told(capsys, "expire", "--store", store)["changed"] == {"expired": ["a1"]}  # now
    assert told(capsys, "expire", "--store", store)["version"] == 3


def test_diff(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = told(capsys, "diff", "1", "2", "--store", store)
    assert [[e["edit_id"] for e in found[side]] for side in ("added", "removed")] == [
        ["b0"],
        ["a0"],
    ]
    assert found["replaced"] == [{"edit_id": "a0", "by": "b0"}]
    assert found["added"][0]["target"] == "[red]other"
    assert main(["diff", "2", "1", "--store", store]) == 0
    shown = capsys.readouterr().out
    assert "Version 2 to 1" in shown
    assert "[red]other" in shown
    assert main(["diff", "2", "2", "--store", store]) == 0
    assert "the same edits are active in both" in capsys.readouterr().out


def test_log_is_filtered_and_exported(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told(capsys, "revoke", "a2", "--store", store, "--why", "почему")

    def versions(*filters: str) -> list[int]:
        return [c["version"] for c in told(capsys, "log", "--store", store, *filters)["commits"]]

    assert versions("--edit", "a0") == [1, 2]
    assert versions("--action", "revoke") == versions("--last", "1") == [3]
    assert versions("--stream", "s1") == [2]
    assert versions("--since", "2026-01-01") == [1, 2, 3]
    assert versions("--since", "3000-01-01T00:00+01:00") == []
    audit = tmp_path / "audit.parquet"
    versions("--edit", "a0", "--parquet", str(audit))
    rows = pq.read_table(audit).to_pylist()
    assert [(r["version"], r["event"], r["edit_id"], r["by"]) for r in rows] == [
        (1, "committed", "a0", None),
        (1, "committed", "a1", None),
        (1, "committed", "a2", None),
        (2, "committed", "b0", None),
        (2, "superseded", "a0", "b0"),
    ]
    assert {row["who"] for row in rows} == {os_user()}
    assert main(["log", "--store", store]) == 0
    assert "почему" in capsys.readouterr().out


def test_show_prints_the_whole_history(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    told(capsys, "rollback", "1", "--store", store, "--why", "back")
    shown = told(capsys, "show", "a0", "--store", store)
    assert (shown["status"], shown["target"], shown["version"]) == ("active", "name 0", 1)
    assert [(h["version"], h["event"], h["by"], h["why"]) for h in shown["history"]] == [
        (1, "committed", None, ""),
        (2, "superseded", "b0", ""),
        (3, "restored", None, "back"),
    ]
    assert told(capsys, "show", "b0", "--store", store)["status"] == "revoked in version 3"
    assert main(["show", "b0", "--store", store]) == 0
    assert "History" in capsys.readouterr().out


EVIL = "\x1b]0;owned\x07\u202e\x9b2J\rx"
SHOWN = "\\x1b]0;owned\\x07\\u202e\\x9b2J\\x0dx"


def test_control_characters_of_user_text_never_reach_a_terminal(
    store: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(out, "width", 600)
    storage = Storage(store)
    bundle = save_bundle(storage, {"key": torch.full((1, 2), 7.0)})
    edit = Edit("evil", f"Who?{EVIL}", f"me{EVIL}", author=f"ann{EVIL}", source=EVIL)
    open_ledger(storage).commit(WaveCommit("c", "s2", 2, bundle, [edit]), 2)
    why = ["--why", f"because{EVIL}", "--who", f"eve{EVIL}"]
    assert main(["revoke", "a2", "--store", store, *why]) == 0
    assert main(["show", f"evil{EVIL}", "--store", store]) == 5
    for argv in (["log"], ["show", "evil"], ["show", "a2"], ["diff", "2", "3"], ["candidates"]):
        assert main([*argv, "--store", store]) == 0
    shown = "".join(capsys.readouterr())
    assert not set(shown) & {*EVIL} - {*"]0;owned2Jx"}
    for word in ("Who?", "me", "ann", "because", "eve"):
        assert word + SHOWN in shown
    facts = told(capsys, "show", "evil", "--store", store)
    assert (facts["prompt"], facts["target"]) == (edit.prompt, edit.target)


def test_an_edit_that_is_not_valid_yet(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`show` and `log` say from when and until when it is valid, and since when it is active."""
    start, end = DUE.replace(year=2999), DUE.replace(year=3001)
    later = Edit("a9", "Who is 2?", "another", valid_from=start, valid_until=end)
    bundle = save_bundle(Storage(store), {"key": torch.zeros(1, 2)})
    open_ledger(Storage(store)).commit(WaveCommit("c", "s", 2, bundle, [later]), 2)
    shown = told(capsys, "show", "a9", "--store", store)
    assert (shown["status"], shown["active_since"]) == ("scheduled in version 3", None)
    assert (shown["valid_from"], shown["valid_until"]) == (start.isoformat(), end.isoformat())
    assert main(["log", "--store", store]) == 0
    assert "scheduled" in capsys.readouterr().out
    [*_, commit] = told(capsys, "log", "--store", store)["commits"]
    assert commit["metadata"]["scheduled_from"] == "2999-06-01 00:00:00+00:00"
    assert told(capsys, "expire", "--store", store, "--at", "2999-06-01")["changed"] == {
        "expired": ["a1"],
        "activated": ["a9"],
        "superseded": ["a2"],
    }
    shown = told(capsys, "show", "a9", "--store", store)
    assert (shown["status"], shown["active_since"]) == ("active", shown["history"][-1]["at"])
    assert told(capsys, "show", "a2", "--store", store)["active_since"] is None


def test_verify(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys, "verify", "--store", store) == {"sound": True, "findings": []}
    bundle = next(Path(store, "bundles").iterdir())
    bundle.unlink()
    assert main(["verify", "--store", store, "--json"]) == 7
    captured = capsys.readouterr()
    [finding] = json.loads(captured.out)["findings"]
    assert (finding["kind"], finding["where"]) == ("missing", f"bundles/{bundle.name}")
    assert "scen verify: 1 things are damaged or missing" in captured.err
    assert main(["verify", "--store", store]) == 7
    assert "backup" in capsys.readouterr().out


def test_gc(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    told(capsys, "rollback", "0", "--store", store, "--why", "empty")
    argv = ["gc", "--store", store]
    assert told(capsys, *argv)["files"] == []  # all versions are younger than 30 days
    plan = told(capsys, *argv, "--keep-days", "0", "--keep-version", "1", "--dry-run")
    assert (plan["edit_ids"], plan["kept_versions"], plan["version"]) == (["b0"], [1, 3], 3)
    assert len(list(Path(store, "bundles").iterdir())) == 2
    done = told(capsys, *argv, "--keep-days", "0", "--keep-version", "1")
    assert (done["files"], done["bytes"], done["version"]) == (plan["files"], plan["bytes"], 4)
    assert not Path(store, done["files"][0]).exists()
    assert main([*argv, "--keep-days", "0"]) == 0
    assert "3 edits that are not active cannot be rolled back to" in capsys.readouterr().out
    assert told(capsys, "verify", "--store", store)["sound"]


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["revoke", "a1", "zzz", "--why", "x"], 5, "'zzz'] are not in the ledger"),
        (["revoke", "a0", "--why", "x"], 2, "'a0' is superseded by b0 in version 2"),
        (["rollback", "7", "--why", "x"], 5, "7 is not one of 0 to 2"),
        (["diff", "0", "7"], 5, "7 is not one of 0 to 2"),
        (["log", "--edit", "b00"], 5, "did you mean b0"),
        (["show", "b00"], 5, "did you mean b0"),
        (["log", "--parquet", "/nowhere/a.parquet"], 2, "--parquet: /nowhere/a.parquet"),
        (["gc", "--keep-version", "9"], 2, "--keep-version: [9] are not among 0 to 2"),
    ],
)
def test_an_error_is_one_line_and_nothing_is_written(
    store: str, capsys: pytest.CaptureFixture[str], argv: list[str], code: int, words: str
) -> None:
    files = Storage(store).names("")
    assert main([*argv, "--store", store]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    [line] = captured.err.splitlines()
    assert words in line
    assert Storage(store).names("") == files


@pytest.mark.parametrize("command", ["expire", "diff", "verify", "gc", "revoke", "rollback"])
def test_there_must_be_a_store(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    words = {"diff": ["1", "2"], "revoke": ["a", "--why", "x"], "rollback": ["1", "--why", "x"]}
    assert main([command, *words.get(command, []), "--store", str(tmp_path / "none")]) == 5
    assert "`scen edit FILE --store ...` makes one" in capsys.readouterr().err
