"""What is submitted: nothing that only holds in this folder, by the same name for the same work."""

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scen.cli.main import main
from scen.cluster.jobs import Submission
from scen.cluster.submit import file_mark, full_path, local_paths, portable, submit
from scen.config import BaseConfig, load_config
from scen.errors import ConfigError
from scen.pipeline.job_spec import (
    BenchmarkSpec,
    CalibrateSpec,
    EvalSpec,
    JobSpec,
    StreamSpec,
    parse_spec,
)

CONFIGS = Path(__file__).parents[3] / "configs"


def stream(*overrides: str, **fields: Any) -> StreamSpec:
    """A stream with these settings."""
    given = {"edits": "/e", "store": "/s", "settings": load_config(overrides=overrides)}
    return StreamSpec(**(given | fields))


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> JobSpec:
    """The spec that `scen submit` makes of words."""
    assert main(["submit", *words, "--address", "http://head:8265", "--print-spec"]) == 0
    return parse_spec(capsys.readouterr().out)


def test_the_command_makes_the_spec_that_python_makes(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "some.yaml"
    file.write_text("method: scen\nexpert:\n  steps: 7\n  lr: 0.001\n")
    words = ["s3://b/e", "--store", "s3://b/s", "--base", "org/model", "--profile", "none"]
    words += ["--config", str(file), "--set", "expert.steps=8", "--wave-size", "5", "--strict"]
    words += ["--stream", "news", "--format", "zsre", "--why", "it's $HOME", "--no-tracking"]
    settings = {
        "method": "scen",
        "expert": {"steps": 8, "lr": 0.001},
        "base": {"name": "org/model"},
        "router": {"profile": "none"},
        "waves": {"size": 5, "why": "it's $HOME"},
    }
    mine = StreamSpec(
        edits="s3://b/e",
        store="s3://b/s",
        stream="news",
        data_format="zsre",
        strict=True,
        tracking=False,
        settings=load_config(fixed=settings),
    )
    assert printed(capsys, *words).to_json() == portable(mine).to_json()
    assert local_paths(portable(mine)) == []
    plain = printed(capsys, "s3://b/e", "--store", "s3://b/s", "--follow", "--driver-cpus", "1")
    assert plain.to_json() == '{"edits": "s3://b/e", "kind": "stream", "store": "s3://b/s"}'


def test_paths_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("model").mkdir()
    here = str(tmp_path)
    spec = portable(stream("base.name=model", edits="e.jsonl", store="s", locality="l.jsonl"))
    assert (spec.edits, spec.store, spec.locality) == (
        f"{here}/e.jsonl", f"{here}/s", f"{here}/l.jsonl",
    )  # fmt: skip
    assert spec.settings.base.name == f"{here}/model"
    assert local_paths(spec) == [f"{here}/{name}" for name in ("e.jsonl", "s", "l.jsonl", "model")]
    calibrate = CalibrateSpec(edits=("a", "s3://b/c"), out="p", base=BaseConfig(name="model"))
    assert portable(calibrate).edits == (f"{here}/a", "s3://b/c")
    assert portable(calibrate).base.name == f"{here}/model"
    assert local_paths(portable(BenchmarkSpec(file="f", out="s3://b/o"))) == [f"{here}/f"]


def test_a_settings_file_is_spelt_out(tmp_path: Path) -> None:
    path = tmp_path / "some.yaml"
    path.write_text("expert:\n  steps: 7\n  lr: 0.001\n")
    spec = portable(EvalSpec(store="/s", settings_file=str(path)))
    assert spec.settings_file is None
    assert spec.settings.expert.model_fields_set == {"steps", "lr"}
    assert spec.settings.model_dump(exclude_unset=True) == {"expert": {"steps": 7, "lr": 0.001}}


@pytest.mark.parametrize("name", [f"llama2-13b-{gpus}gpu.yaml" for gpus in (1, 4, 8)])
def test_a_deepspeed_file_travels_from_whichever_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = portable(stream(settings_file=str(CONFIGS / name))).to_json()
    assert str(CONFIGS) not in text
    spec = parse_spec(text)
    assert isinstance(spec, StreamSpec)
    cluster = spec.config().cluster
    file = "zero3_offload.json" if "1gpu" in name else "zero3.json"
    assert cluster.deepspeed == json.loads((CONFIGS / "deepspeed" / file).read_text())
    assert cluster.strategy == "zero3"


def test_files_that_are_named_here_are_found_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("ds.json").write_text('{"zero_optimization": {"stage": 3}}')
    overrides = ("cluster.deepspeed=ds.json", "router.profile=mine.json")
    settings = portable(stream(*overrides)).settings
    assert settings.cluster.deepspeed == {"zero_optimization": {"stage": 3}}
    assert settings.router.profile == str(tmp_path / "mine.json")


def test_what_is_wrong_is_reported_before_anything_is_submitted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(ConfigError, match=r"cluster\.deepspeed: nowhere\.json is no DeepSpeed"):
        submit(stream("cluster.deepspeed=nowhere.json"), "http://127.0.0.1:9")
    with pytest.raises(ConfigError, match="spec: edits: is missing"):
        submit({"kind": "stream", "store": "s"}, "http://127.0.0.1:9")
    with pytest.raises(ConfigError, match="stream"):
        submit(stream(stream="No Good"), "http://127.0.0.1:9")
    with pytest.raises(ConfigError, match="name it in settings_file"):
        submit(stream(f"waves.why={'x' * 100_000}"), "http://127.0.0.1:9")
    words = ["submit", "/e", "--store", "/s", "--address", "http://127.0.0.1:9"]
    assert main([*words, "--set", "cluster.workerz=2"]) == 2
    assert "cluster.workerz" in capsys.readouterr().err


def test_a_name_is_a_path_where_there_is_one(tmp_path: Path) -> None:
    assert full_path("auto") == "auto"
    assert full_path("no/such-model", is_base=True) == "no/such-model"
    assert full_path(str(tmp_path / "x" / ".." / "y")) == str(tmp_path / "y")


def test_a_file_that_changes_has_another_mark(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    nothing = file_mark(str(path))
    path.write_text("a")
    first = file_mark(str(path))
    assert first == file_mark(str(path)) != nothing
    path.write_text("ab")
    assert file_mark(str(path)) != first


def test_the_name_of_a_job_is_that_of_its_work() -> None:
    one, other = (stream(f"expert.steps={steps}").to_json() for steps in (3, 4))
    names = {Submission(spec, "New s!", mark=mark).submission_id
             for spec in (one, one, other) for mark in ("", "m")}  # fmt: skip
    assert len(names) == 4
    assert all(name.startswith("scen--ew-s--") for name in names)


WHYS = ['it\'s "quoted" $HOME `ls` ${PATH} \\ ; & | > #', "new\nline\ttab", "почему \u202e", "-x"]


@pytest.mark.parametrize("why", WHYS)
def test_a_shell_hands_the_spec_on_as_it_is(why: str) -> None:
    """As Ray does: the entry point is run by /bin/sh."""
    spec = stream(f"waves.why={json.dumps(why)}")
    job = Submission(spec.to_json(), "x", python=sys.executable)
    words = shlex.split(job.entrypoint)
    assert words[1:3] == ["-m", "scen_jobs"]
    assert parse_spec(words[-1]) == spec
    echo = job.entrypoint.replace("-m scen_jobs", "-c 'import sys; print(sys.argv[-1])'", 1)
    told = subprocess.run(echo, shell=True, capture_output=True, text=True, check=True).stdout
    again = parse_spec(told)
    assert isinstance(again, StreamSpec)
    assert again.settings.waves.why == why
