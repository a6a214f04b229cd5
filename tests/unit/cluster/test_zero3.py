"""DeepSpeed configurations: stage 3, or a clear error; and ranks that share a base."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from conftest import write_tiny_base
from scen.cluster.sharding import DEFAULT, read_deepspeed
from scen.config import load_config
from scen.errors import ConfigError

GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CONFIGS = Path(__file__).parents[3] / "configs"
SIZES = [f"llama2-{size}-{gpus}gpu.yaml" for size in ("7b", "13b") for gpus in (1, 4, 8)]


def test_without_a_file_nothing_stays_gathered() -> None:
    assert read_deepspeed(None) is DEFAULT
    assert DEFAULT["zero_optimization"]["stage3_param_persistence_threshold"] == 0


@pytest.mark.parametrize("name", ["zero3.json", "zero3_offload.json"])
def test_the_packaged_files_are_valid(name: str) -> None:
    found = read_deepspeed(str(CONFIGS / "deepspeed" / name))["zero_optimization"]
    assert found["stage"] == 3
    assert ("offload_param" in found) is ("offload" in name)


@pytest.mark.parametrize("name", SIZES)
def test_settings_for_sizes_and_numbers_of_gpus(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = load_config(CONFIGS / name)
    assert f"-{config.cluster.workers}gpu" in name
    assert config.cluster.gpus_per_worker == 1
    path = config.cluster.deepspeed
    assert (path is not None) is (config.cluster.strategy == "zero3")
    if path is not None:
        assert read_deepspeed(path)["bf16"]["enabled"]


def test_what_is_in_a_file_will_do() -> None:
    given = {"zero_optimization": {"stage": 3}}
    assert read_deepspeed(given) is given
    with pytest.raises(ConfigError, match="what is given has stage 1"):
        read_deepspeed({"zero_optimization": {"stage": 1}})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no DeepSpeed configuration"),
        ("{", "no DeepSpeed configuration"),
        ("[]", "no DeepSpeed configuration"),
        ("{}", "zero_optimization"),
        (json.dumps({"zero_optimization": {"stage": 2}}), "has stage 2"),
    ],
)
def test_a_file_that_does_not_split_a_base(tmp_path: Path, content: str | None, words: str) -> None:
    path = tmp_path / "ds.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=words) as caught:
        read_deepspeed(str(path))
    assert "cluster.deepspeed" in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=GPU)])
def test_ranks_that_share_a_base_train_and_answer_as_with_the_whole(
    tmp_path: Path, device: str
) -> None:
    """Two ranks on CPUs; one on a GPU, with its weights in main memory."""
    kinds, out = ("llama", "gemma3_text"), tmp_path / "out.json"
    folders = [str(write_tiny_base(tmp_path / kind, kind=kind)) for kind in kinds]
    script = Path(__file__).parent / "zero3_ranks.py"
    command = [sys.executable, "-P", str(script), str(out), device, *folders]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    results = json.loads(out.read_text())
    assert list(results) == folders
    for ranks in results.values():
        whole, sharded = ranks["whole"], ranks["sharded"]
        assert sharded["tokens"] == whole["tokens"]
        for ours, theirs in zip(sharded["losses"], whole["losses"], strict=True):
            assert ours == pytest.approx(theirs, rel=1e-4)
        assert sharded["bytes"] < 0.6 * whole["bytes"]
