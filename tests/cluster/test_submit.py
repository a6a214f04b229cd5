"""`scen submit`, `scen jobs` and `scen stop` against a real head with its dashboard."""

import json
import re
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

import scen
from cluster.ray_head import Head
from cluster.submission import (
    SETTINGS,
    edit_words,
    submit,
    submit_words,
    wait_for_end,
    write_edits,
)
from cluster.wave_case import EDITS
from scen.cli.main import main
from scen.config import Config, load_config
from scen.data.inbox import Inbox
from scen.fs import Storage
from scen.ledger.ledger import open_ledger
from scen.pipeline.job_spec import DrainSpec, EvalSpec, JobSpec, StreamSpec
from scen_jobs.__main__ import main as run_job

pytestmark = pytest.mark.cluster
SMALL = {"evaluation": {"max_new_tokens": 6, "locality_limit": 2}}
UNTOUCHED = "driver: weights of the base not loaded here"


def runs_of(client: MlflowClient, stream: str) -> list[tuple[str, str, dict[str, float]]]:
    """Kind, status and metrics of a stream's runs: the stream's own, then the waves'."""
    experiment = client.get_experiment_by_name(f"stream/{stream}")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    found = [(r.data.tags["edit.kind"], r.info.status, r.data.metrics) for r in runs]
    return sorted(found, key=lambda run: run[0])


def run(spec: JobSpec, head: Head) -> int:
    """The exit code of a job that runs in this process, with its result as JSON."""
    return run_job(["--spec", spec.to_json(), "--json"], head.address)


def settings_of(base: Path, *overrides: str) -> Config:
    """Settings of the wave case, for a base."""
    fixed = {"base": {"name": str(base), "template": "llama2-inst", "dtype": "float32"}}
    return load_config(overrides=[*SETTINGS, *overrides], fixed=fixed)


def whole_file(file: Path, base: Path, *overrides: str) -> StreamSpec:
    """A file as one wave, in a store beside it."""
    settings = settings_of(base, *overrides)
    return StreamSpec(
        edits=str(file),
        store=str(file.parent / "store"),
        one_wave=True,
        tracking=False,
        settings=settings,
    )


def test_python_submits_what_the_command_submits(
    head: Head, tiny_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = write_edits(tmp_path / "facts.jsonl", EDITS[:2])
    why = 'it\'s "quoted" $HOME `ls` \u202e'
    spec = whole_file(file, tiny_folder, f"waves.why={json.dumps(why)}", "cluster.workers=1")
    job = scen.submit(spec, head.dashboard, python=sys.executable)
    assert job.state == "started"
    log: list[str] = []
    assert job.follow(log.append) == "SUCCEEDED", "".join(log)
    assert scen.submit(json.loads(spec.to_json()), head.dashboard).state == "done"
    [commit] = open_ledger(Storage(spec.store)).log()
    assert (commit.num_edits, commit.why) == (2, why)
    assert not job.stop()


def test_a_stream_is_submitted_followed_and_recognised(
    head: Head, tiny_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    edits = edit_words(write_edits(tmp_path / "facts.jsonl"), tiny_folder)
    words = submit_words(edits, head.dashboard)
    assert main([*words, "--follow"]) == 0
    told, log = capfd.readouterr()
    first = json.loads(told)
    assert (first["state"], first["status"]) == ("started", "SUCCEEDED")
    assert "wave 0 of facts: 6 edits" in log
    assert re.search(r"evaluate (\d+)/\1\b", log)
    assert UNTOUCHED in log
    ledger = open_ledger(Storage(str(tmp_path / "store")))
    assert ledger.snapshot().ids == [edit.id for edit in EDITS[:6]]
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    stream, wave = runs_of(client, "facts")
    assert [run[:2] for run in (stream, wave)] == [("stream", "FINISHED"), ("wave", "FINISHED")]
    assert wave[2]["wave/num_edits"] == stream[2]["wave/num_edits"] == 6
    assert submit(words, capfd) == first | {"state": "done", "status": "done"}
    assert (ledger.version(), len(runs_of(client, "facts"))) == (1, 2)
    store = str(tmp_path / "store")
    assert run(EvalSpec(store=store, settings=load_config(fixed=SMALL)), head) == 0
    told, log = capfd.readouterr()
    assert UNTOUCHED in log
    spread = json.loads(told)
    small = ["--set", "evaluation.max_new_tokens=6", "--set", "evaluation.locality_limit=2"]
    assert main(["eval", "--store", store, *small, "--json"]) == 0
    assert json.loads(capfd.readouterr().out) == spread
    assert (spread["n_edits"], spread["version"]) == (6, 1)


def test_a_file_is_one_wave(
    head: Head, tiny_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whatever the settings say of the size of waves."""
    file = write_edits(tmp_path / "facts.jsonl")
    spec = whole_file(file, tiny_folder, "waves.size=2", "cluster.workers=1")
    assert run(spec, head) == 0
    told, log = capfd.readouterr()
    assert UNTOUCHED in log
    found = json.loads(told)
    assert [wave["num_edits"] for wave in found["waves"]] == [6]
    [commit] = open_ledger(Storage(str(tmp_path / "store"))).log()
    assert (commit.num_edits, commit.epoch) == (6, 1)  # by the registry
    assert run(spec, head) == 0
    again = json.loads(capfd.readouterr().out)
    assert (again["known"], again["committed"], again["version"]) == (6, 0, 1)


def test_a_wave_of_a_file_that_is_not_there(
    capfd: pytest.CaptureFixture[str], head: Head, tmp_path: Path
) -> None:
    missing = tmp_path / "e.jsonl"
    assert run(StreamSpec(edits=str(missing), store=str(tmp_path / "store")), head) == 3
    assert str(missing) in capfd.readouterr().err


def test_what_was_handed_in_is_drained_on_the_cluster(
    head: Head, tiny_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    storage = Storage(str(tmp_path / "store"))
    for edit in EDITS[:4]:
        Inbox(storage, "online").put(edit)
    settings = settings_of(tiny_folder, "waves.size=3", "cluster.workers=1")
    spec = DrainSpec(store=storage.uri, once=True, tracking=False, settings=settings)
    assert run(spec, head) == 0
    ledger = open_ledger(storage)
    assert (ledger.version(), ledger.snapshot().ids) == (2, [edit.id for edit in EDITS[:4]])
    assert UNTOUCHED in capfd.readouterr().err


def parts_of(storage: Storage) -> dict[str, bytes]:
    """The parts of waves that are written down as trained."""
    return {name: storage.read(name) for name in storage.names("waves") if "/parts/" in name}


def test_a_job_is_stopped_and_goes_on_when_it_is_submitted_again(
    head: Head, tiny_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    slow = ["expert.batch_size=1", "expert.steps=600", "expert.stop_loss=0", "cluster.workers=1"]
    edits = edit_words(write_edits(tmp_path / "facts.jsonl", EDITS[:3]), tiny_folder, *slow)
    words = submit_words(edits, head.dashboard, "--stream", "halted", "--no-tracking")
    first = submit(words, capfd)
    assert submit(words, capfd) == first | {"state": "running", "status": "running"}
    storage, end = Storage(str(tmp_path / "store")), time.monotonic() + 240
    while not parts_of(storage) and time.monotonic() < end:
        time.sleep(0.1)
    assert main(["stop", first["job"], "--address", head.dashboard, "--json"]) == 0
    assert json.loads(capfd.readouterr().out) == {"job": first["job"], "stopped": True}
    assert wait_for_end(head.dashboard, first["job"]) == "STOPPED"
    before = parts_of(storage)
    assert 1 <= len(before) < 3  # it was stopped in the middle
    assert open_ledger(storage).version() == 0
    again = submit([*words, "--follow"], capfd)
    assert again == {"job": f"{first['job']}-2", "state": "started", "status": "SUCCEEDED"}
    after = parts_of(storage)
    assert len(after) == 3
    assert before.items() <= after.items()
    [commit] = open_ledger(storage).log()
    assert commit.num_edits == 3
    assert main(["jobs", "--address", head.dashboard, "--json"]) == 0
    known = {j["job"]: j["status"] for j in json.loads(capfd.readouterr().out)["jobs"]}
    assert (known[first["job"]], known[again["job"]]) == ("STOPPED", "SUCCEEDED")


def test_two_streams_run_side_by_side_and_each_of_them_once(
    head: Head, tiny_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    jobs, streams = {}, {"a": EDITS[:4], "b": EDITS[4:8]}
    for name, edits in streams.items():
        file = write_edits(tmp_path / f"{name}.jsonl", edits)
        words = edit_words(file, tiny_folder, "cluster.workers=1", "waves.size=2")
        jobs[name] = submit_words(words, head.dashboard, "--no-tracking")
    found = {name: submit(words, capfd) for name, words in jobs.items()}
    assert [told["state"] for told in found.values()] == ["started", "started"]
    assert main([*jobs["b"], "--set", "expert.steps=5"]) == 6
    refused = capfd.readouterr().err
    assert f"b of {tmp_path / 'store'} is being run by job {found['b']['job']}" in refused
    for told in found.values():
        assert wait_for_end(head.dashboard, told["job"]) == "SUCCEEDED"
    ledger = open_ledger(Storage(str(tmp_path / "store")))
    commits = [(entry.stream, entry.num_edits) for entry in ledger.log()]
    assert sorted(commits) == [("a", 2)] * 2 + [("b", 2)] * 2
    ids = ledger.snapshot().ids
    for name, edits in streams.items():
        mine = {edit.id for edit in edits}
        assert [one for one in ids if one in mine] == [edit.id for edit in edits], name
    assert len(ids) == 8


def test_a_job_that_nobody_submitted(head: Head, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["stop", "scen-nothing", "--address", head.dashboard]) == 5
    assert "there is no scen-nothing" in capfd.readouterr().err


def test_an_address_where_nothing_answers(
    tiny_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = edit_words(write_edits(tmp_path / "facts.jsonl"), tiny_folder)
    assert main(submit_words(words, "http://127.0.0.1:9")) == 2
    assert "--address: no Ray dashboard answers" in capfd.readouterr().err
