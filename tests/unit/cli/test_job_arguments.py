"""What a job is told: nothing that only holds in the folder where it was submitted."""

import argparse
import json
from pathlib import Path

import pytest

from scen.cli.job_arguments import file_mark, full_path, job_arguments, local_paths
from scen.cli.parser import build_parser
from scen.config import load_config
from scen.errors import ConfigError

CONFIGS = Path(__file__).parents[3] / "configs"
ADDRESS = ["--address", "http://head:8265"]


def parse(*words: str) -> argparse.Namespace:
    """The arguments of `scen submit`."""
    return build_parser().parse_args(["submit", *words, *ADDRESS])


def test_uris_and_names_stay_and_options_of_the_submission_are_left_out() -> None:
    args = parse("s3://b/e.parquet", "--store", "s3://b/s", "--base", "org/model",
                 "--profile", "none", "--follow", "--json", "--driver-cpus", "1")  # fmt: skip
    assert job_arguments(args) == [
        "s3://b/e.parquet", "--store=s3://b/s", "--profile=none", "--base=org/model"
    ]  # fmt: skip
    assert local_paths(args) == []


def test_paths_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("model").mkdir()
    args = parse("e.jsonl", "--store", "s", "--base", "model", "--locality", "l.jsonl")
    here = str(tmp_path)
    assert job_arguments(args) == [
        f"{here}/e.jsonl", f"--store={here}/s", f"--locality={here}/l.jsonl",
        f"--base={here}/model",
    ]  # fmt: skip
    assert local_paths(args) == [f"{here}/{name}" for name in ("e.jsonl", "s", "l.jsonl", "model")]


def test_a_job_s_words_parse_to_what_was_meant() -> None:
    args = parse("/e.jsonl", "--store", "/s", "--wave-size", "5", "--strict", "--stream", "news",
                 "--set", "expert.steps=3", "--set", "expert.lr=0.5", "--no-tracking")  # fmt: skip
    again = build_parser().parse_args(["edit", *job_arguments(args)])
    assert (again.file, again.store, again.wave_size, again.stream) == ("/e.jsonl", "/s", 5, "news")
    assert (again.strict, again.no_tracking) == (True, True)
    assert again.overrides == ["expert.steps=3", "expert.lr=0.5"]


def test_a_settings_file_is_spelt_out(tmp_path: Path) -> None:
    path = tmp_path / "some.yaml"
    path.write_text("method: scen\nexpert:\n  steps: 7\n  lr: 0.001\n")
    args = parse("/e", "--store", "/s", "--config", str(path), "--set", "expert.steps=8")
    assert job_arguments(args)[2:] == [
        '--set=method="scen"', '--set=expert={"steps": 7, "lr": 0.001}', "--set=expert.steps=8"
    ]  # fmt: skip


def shipped(name: str) -> tuple[list[str], dict[str, object]]:
    """The words of a job with settings that ship, and what the job makes of them."""
    words = job_arguments(parse("s3://b/e", "--store", "s3://b/s", "--config", str(CONFIGS / name)))
    again = build_parser().parse_args(["edit", *words])
    assert again.config is None
    return words, load_config(overrides=again.overrides).cluster.model_dump()


@pytest.mark.parametrize("name", [f"llama2-13b-{gpus}gpu.yaml" for gpus in (1, 4, 8)])
def test_a_deepspeed_file_travels_from_whichever_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words, cluster = shipped(name)
    assert str(CONFIGS) not in " ".join(words)
    file = "zero3_offload.json" if "1gpu" in name else "zero3.json"
    assert cluster["deepspeed"] == json.loads((CONFIGS / "deepspeed" / file).read_text())
    assert cluster["strategy"] == "zero3"


def test_files_that_are_named_here_are_found_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("ds.json").write_text('{"zero_optimization": {"stage": 3}}')
    Path("model").mkdir()
    told = ["cluster.deepspeed=ds.json", "base.name=model", "router.profile=mine.json"]
    words = job_arguments(parse("/e", "--store", "/s", *(f"--set={one}" for one in told)))
    config = load_config(overrides=build_parser().parse_args(["edit", *words]).overrides)
    assert config.cluster.deepspeed == {"zero_optimization": {"stage": 3}}
    assert config.base.name == str(tmp_path / "model")
    assert config.router.profile == str(tmp_path / "mine.json")


def test_a_deepspeed_file_that_is_not_there_is_told_before_anything_is_submitted() -> None:
    with pytest.raises(ConfigError, match=r"cluster\.deepspeed: nowhere\.json is no DeepSpeed"):
        job_arguments(parse("/e", "--store", "/s", "--set", "cluster.deepspeed=nowhere.json"))


def test_a_wrong_setting_is_told_before_anything_is_submitted() -> None:
    with pytest.raises(ConfigError, match=r"cluster\.workerz"):
        job_arguments(parse("/e", "--store", "/s", "--set", "cluster.workerz=2"))


def test_a_name_is_a_path_where_there_is_one(tmp_path: Path) -> None:
    assert full_path(None) is None
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
