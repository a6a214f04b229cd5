"""Jobs as data: JSON in and out, only what is given, and errors that name the field."""

import subprocess
import sys
from typing import Any

import pytest

from scen.config import BaseConfig, Config, load_config
from scen.errors import ConfigError
from scen.pipeline.job_spec import (
    BenchmarkSpec,
    CalibrateSpec,
    DrainSpec,
    EvalSpec,
    JobSpec,
    StreamSpec,
    parse_spec,
)

SPECS: list[JobSpec] = [
    StreamSpec(edits="e.jsonl", store="s"),
    StreamSpec(
        edits="s3://b/e",
        store="s3://b/s",
        stream="news",
        limit=3,
        strict=True,
        one_wave=True,
        settings=load_config(overrides=["expert.steps=3", 'waves.why="it\'s $HOME `x`\\n\\u202e"']),
    ),
    DrainSpec(store="s", once=True, tracking=False),
    EvalSpec(store="s", else_rollback="previous", asking=True),
    EvalSpec(store="s", else_rollback=3, version=0),
    CalibrateSpec(edits=("a", "b"), out="p", base=BaseConfig(name="x"), gpus=1),
    BenchmarkSpec(file="f.yaml", out="s3://b/o", sizes=(1, 2), methods=("rome",)),
]


@pytest.mark.parametrize("spec", SPECS)
def test_json_and_back(spec: JobSpec) -> None:
    again = parse_spec(spec.to_json())
    assert again == spec
    assert again.to_json() == spec.to_json()
    assert (
        parse_spec(spec.model_dump(mode="json", exclude_unset=True) | {"kind": spec.kind}) == spec
    )


def test_json_has_what_is_given_and_no_defaults() -> None:
    assert SPECS[0].to_json() == '{"edits": "e.jsonl", "kind": "stream", "store": "s"}'
    spelt_out = StreamSpec(edits="e.jsonl", store="s", limit=None, strict=False, settings=Config())
    assert spelt_out.to_json() == SPECS[0].to_json()


def test_a_setting_that_is_given_with_its_default_stays_given() -> None:
    """A profile's settings of experts hold where none are given."""
    spec = StreamSpec(edits="e", store="s", settings=load_config(overrides=["expert.rank=4"]))
    assert spec.config().expert.model_fields_set == {"rank"}
    again = parse_spec(spec.to_json())
    assert isinstance(again, StreamSpec)
    assert again.config().expert.model_fields_set == {"rank"}


def test_the_method_of_a_store_need_not_be_given() -> None:
    given = load_config(overrides=["expert.lr=0.5"])
    spec = StreamSpec(edits="e", store="s", settings=given)
    paper = spec.config("scen")
    assert (paper.method, paper.expert.lr, paper.expert.steps) == ("scen", 0.5, 10)
    other = StreamSpec(edits="e", store="s", settings=load_config(overrides=["method=scen-lr"]))
    assert other.config("scen").method == "scen-lr"  # and the store will refuse it
    assert EvalSpec(store="s", settings=other.settings).config("scen").method == "scen"


def test_one_wave_is_the_whole_file_whatever_the_settings_say() -> None:
    settings = load_config(overrides=["waves.size=2", "waves.max_bytes=10"])
    whole = StreamSpec(edits="e", store="s", one_wave=True, settings=settings).config().waves
    assert whole.size > 10**9
    assert whole.max_bytes is None


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"kind": "stream", "store": "s"}, "spec: edits: is missing"),
        ({"kind": "stream", "edits": "e", "store": "s", "limit": 0}, "spec: limit: .*greater"),
        ({"kind": "stream", "edits": "e", "store": "s", "wave_size": 3}, "spec: wave_size: Extra"),
        ({"kind": "drain", "store": "s", "settings": {"expert": {"stepz": 1}}},
         r"spec: settings\.expert\.stepz"),
        ({"kind": "eval", "store": "s", "else_rollback": "last"}, "spec: else_rollback"),
        ({"store": "s"}, "discriminator 'kind'"),
        ({"kind": "calibrate", "edits": ["a"], "out": "p", "gpus": -1}, "spec: gpus"),
    ],
)  # fmt: skip
def test_what_is_wrong_names_the_field(value: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_spec(value)


def test_it_loads_neither_torch_nor_ray() -> None:
    code = "import sys, scen.pipeline.job_spec; print([m for m in {!r} if m in sys.modules])"
    heavy = ["torch", "transformers", "ray", "mlflow", "pyarrow", "deltalake"]
    command = [sys.executable, "-P", "-c", code.format(heavy)]
    assert subprocess.run(command, check=True, capture_output=True).stdout.strip() == b"[]"
