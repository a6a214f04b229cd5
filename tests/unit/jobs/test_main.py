"""`python -m scen_jobs`: a wrong spec ends before Ray is asked, with the field and an exit code."""

from pathlib import Path

import pytest

from scen.pipeline.job_spec import EvalSpec
from scen_jobs.__main__ import main, read_spec


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("{", "spec: Invalid JSON"),
        ('{"kind": "bake"}', "'stream', 'drain', 'eval', 'calibrate', 'benchmark'"),
        ('{"kind": "stream", "edits": "e"}', "spec: store: is missing"),
        ('{"kind": "eval", "store": "s", "settings": {"waves": {"sice": 1}}}',
         "spec: settings.waves.sice"),
        ('{"kind": "benchmark", "file": "b.yaml"}', "spec: out: is missing"),
        ('{"kind": "calibrate", "edits": [], "out": "p"}', "edits: give at least one file"),
        ('{"kind": "calibrate", "edits": ["e"]}', "out: give either this, for the profile"),
        ('{"kind": "calibrate", "store": "s", "out": "p"}', "out: give either this, for the"),
    ],
)  # fmt: skip
def test_a_wrong_spec_names_the_field(
    spec: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--spec", spec], "127.0.0.1:9") == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("scen job: ")
    assert words in line


def test_a_spec_is_read_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("kind: eval\nstore: s\nsettings: {waves: {min_locality: 0.9}}\n")
    spec = read_spec(str(path))
    assert isinstance(spec, EvalSpec)
    assert spec.settings.waves.min_locality == 0.9
    path.write_text("[1]")
    for file, words in ((path, "must hold fields"), (tmp_path / "none", "cannot read")):
        assert main(["--spec-file", str(file)], "127.0.0.1:9") == 2
        assert words in capsys.readouterr().err
