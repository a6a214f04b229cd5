"""What a job is told: nothing that only holds in the folder where it was submitted."""

import argparse
from pathlib import Path

import pytest

from scen.cli.job_arguments import file_mark, full_path, job_arguments, local_paths
from scen.cli.parser import build_parser
from scen.errors import ConfigError

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
