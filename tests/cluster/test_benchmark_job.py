"""A benchmark whose rows are measured by workers."""

import json
from pathlib import Path

import pytest
import yaml

from cluster.ray_head import Head
from conftest import WORDS, write_tiny_base
from scen.pipeline.job_spec import BenchmarkSpec
from scen_jobs.__main__ import main

pytestmark = pytest.mark.cluster
EXPERT = {"layer": 3, "lr": 0.05, "steps": 40}


def test_rows_come_from_workers_and_are_kept(
    head: Head, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    base = write_tiny_base(tmp_path / "base")
    rows = [{"prompt": f"Who founded {w}?", "target": WORDS[9 - i]} for i, w in enumerate(WORDS)]
    for name, some in (("edits", rows), ("other", [{"prompt": "What is a fjord?"}])):
        text = "".join(f"{json.dumps(row)}\n" for row in some)
        (tmp_path / f"{name}.jsonl").write_text(text, encoding="utf-8")
    given = {
        "name": "job",
        "base": {"name": str(base), "template": "raw", "dtype": "float32", "device": "cpu"},
        "edits": str(tmp_path / "edits.jsonl"),
        "unrelated": str(tmp_path / "other.jsonl"),
        "sizes": [4],
        "latency_prompts": 1,
        "upstream_limit": 1,
        "methods": [
            {"name": "nothing", "editor": "base"},
            {"name": "platform", "editor": "platform", "settings": {"expert": EXPERT}},
        ],
    }
    config = tmp_path / "job.yaml"
    config.write_text(yaml.safe_dump(given), encoding="utf-8")
    spec = BenchmarkSpec(file=str(config), out=str(tmp_path / "out"), tracking=False)
    assert main(["--spec", spec.to_json(), "--json"], head.address) == 0
    told = json.loads(capfd.readouterr().out.strip().splitlines()[-1])
    assert [row["method"] for row in told["rows"]] == ["nothing", "platform"]
    assert told["rows"][1]["figures"]["reliability"] == 1
    assert len(list((tmp_path / "out" / "rows").iterdir())) == 2
