"""`scen submit`, `scen jobs` and `scen stop` against a real head with its dashboard."""

import json
import sys
from pathlib import Path

import pytest

from cluster.ray_head import Head
from cluster.wave_case import EDITS
from scen.cli.main import main
from scen.fs import Storage
from scen.ingest.inbox import Inbox
from scen.records import edit_to_dict
from scen.registry.ledger import open_ledger
from scen_jobs import run_drain, run_eval

pytestmark = pytest.mark.cluster

SETTINGS = ["expert.layer=3", "expert.steps=4", "evaluation.max_new_tokens=6",
            "evaluation.locality_limit=2", "cluster.workers=2", "router.profile=none"]  # fmt: skip


def words(folder: Path, base: Path, address: str) -> list[str]:
    """The command line: six edits on the tiny base."""
    file = folder / "facts.jsonl"
    if not file.exists():
        file.write_text("".join(json.dumps(edit_to_dict(edit)) + "\n" for edit in EDITS[:6]))
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    given = ["--store", str(folder / "store"), "--base", str(base), "--template", "llama2-inst"]
    given += [
        "--dtype",
        "float32",
        "--device",
        "cpu",
        "--no-tracking",
        "--address",
        address,
        "--python",
        sys.executable,
    ]
    return ["submit", str(file), *given, *settings]


def test_a_stream_is_submitted_followed_and_recognised(
    head: Head, tiny_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    submit = words(tmp_path, tiny_folder, head.dashboard)
    assert main([*submit, "--follow", "--json"]) == 0
    told, log = capfd.readouterr()
    first = json.loads(told)
    assert (first["state"], first["status"]) == ("started", "SUCCEEDED")
    assert "wave 0 of facts: 6 edits" in log
    assert "evaluate 14/14" in log
    ledger = open_ledger(Storage(str(tmp_path / "store")))
    assert ledger.snapshot().ids == [edit.id for edit in EDITS[:6]]
    assert main([*submit, "--json"]) == 0
    assert json.loads(capfd.readouterr().out) == first | {"state": "done", "status": "done"}
    assert ledger.version() == 1
    of_store = ["--store", str(tmp_path / "store"), "--set", "evaluation.max_new_tokens=6",
                "--set", "evaluation.locality_limit=2", "--json"]  # fmt: skip
    assert run_eval.main(of_store, head.address) == 0
    spread = json.loads(capfd.readouterr().out)
    assert main(["eval", *of_store]) == 0
    assert json.loads(capfd.readouterr().out) == spread
    assert (spread["n_edits"], spread["version"]) == (6, 1)


def test_what_was_handed_in_is_drained_on_the_cluster(
    head: Head, tiny_folder: Path, tmp_path: Path
) -> None:
    storage = Storage(str(tmp_path / "store"))
    for edit in EDITS[:4]:
        Inbox(storage, "online").put(edit)
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    drain = ["--store", storage.uri, "--base", str(tiny_folder), "--template", "llama2-inst",
             "--no-tracking", "--once", "--wave-size", "3", *settings]  # fmt: skip
    assert run_drain.main(drain, head.address) == 0
    ledger = open_ledger(storage)
    assert (ledger.version(), ledger.snapshot().ids) == (2, [edit.id for edit in EDITS[:4]])


def test_a_job_is_stopped_and_goes_on_when_it_is_submitted_again(
    head: Head, tiny_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    submit = [*words(tmp_path, tiny_folder, head.dashboard), "--stream", "halted", "--json"]
    assert main(submit) == 0
    first = json.loads(capfd.readouterr().out)
    assert main(submit) == 0
    assert json.loads(capfd.readouterr().out) == first | {"state": "running", "status": "running"}
    assert main(["stop", first["job"], "--address", head.dashboard, "--json"]) == 0
    assert json.loads(capfd.readouterr().out) == {"job": first["job"], "stopped": True}
    assert main(["jobs", "--address", head.dashboard, "--json"]) == 0
    assert first["job"] in [job["job"] for job in json.loads(capfd.readouterr().out)["jobs"]]


def test_a_job_that_nobody_submitted(head: Head, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["stop", "scen-nothing", "--address", head.dashboard]) == 5
    assert "there is no scen-nothing" in capfd.readouterr().err


def test_an_address_where_nothing_answers(
    tiny_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(words(tmp_path, tiny_folder, "http://127.0.0.1:9")) == 2
    assert "--address: no Ray dashboard answers" in capfd.readouterr().err
