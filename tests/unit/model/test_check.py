"""Checks from a config alone: what can be edited, what it takes, and what is in the caches."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from conftest import write_tiny_base
from scen.cli.main import main
from scen.errors import BaseError
from scen.model.base import load_base, resolve_base
from scen.model.check import check_base, estimate_memory, list_bases
from scen.model.gguf import conversion_peak
from scen.model.weights import empty_model

LLAMA2: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SIZES = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32}
LLAMA2_7B = LLAMA2 | SIZES | {"num_attention_heads": 32}
SIZES = {"hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40}
LLAMA2_13B = LLAMA2 | SIZES | {"num_attention_heads": 40}


def write_config(folder: Path, config: dict[str, Any]) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


@pytest.mark.parametrize(
    ("config", "layers", "parameters", "train_gb"),
    [(LLAMA2_7B, 32, 6_738_415_616, 14.5), (LLAMA2_13B, 40, 13_015_864_320, 27.2)],
)
def test_llama_2_is_checked_by_its_config_alone(
    tmp_path: Path, config: dict[str, Any], layers: int, parameters: int, train_gb: float
) -> None:
    check = check_base(write_config(tmp_path, config))
    assert (check.is_editable, check.is_tested, check.trouble) == (True, True, None)
    assert (check.layers, check.parameters) == (layers, parameters)
    bfloat16, float32 = check.memory
    assert (bfloat16.dtype, bfloat16.weights) == ("bfloat16", 2 * parameters)
    assert float32.weights == 4 * parameters
    assert bfloat16.train == pytest.approx(train_gb * 1e9, rel=0.1)
    assert bfloat16.weights < bfloat16.train < bfloat16.calibrate < float32.weights
    wide, narrow = config["intermediate_size"], config["hidden_size"]
    assert bfloat16.train_paper > bfloat16.weights + 8 * 16 * wide * narrow
    assert check.kv_bytes_per_token == 2 * layers * narrow * 2
    assert check.devices[0].name == "cpu"
    assert check.convert is None


@pytest.mark.parametrize(
    ("kind", "sizes", "parameters", "peak_gb", "convert_gb"),
    [
        ("qwen2", (896, 4864, 24, 14, 2, 151936), 630_167_424, 4.3, 1.87),
        ("qwen2", (1536, 8960, 28, 12, 2, 151936), 1_777_088_000, 11.0, 2.74),
    ],
)
def test_estimates_are_near_measured_peaks(
    kind: str, sizes: tuple[int, ...], parameters: int, peak_gb: float, convert_gb: float
) -> None:
    """Qwen2.5-Coder 0.5B and 1.5B in float32, 32 and 16 edits, embeddings not tied; converted from
    GGUF to bfloat16."""
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    config = AutoConfig.for_model(
        kind, **dict(zip((*names, "num_key_value_heads", "vocab_size"), sizes, strict=True))
    )
    estimate = estimate_memory(config, parameters, "float32")
    assert estimate.train == pytest.approx(peak_gb * 1e9, rel=0.2)
    config.tie_word_embeddings = False
    assert conversion_peak(empty_model(config)) == pytest.approx(convert_gb * 1e9, rel=0.2)


def test_each_step_that_does_not_fit_a_device_is_named(tmp_path: Path) -> None:
    huge = LLAMA2_7B | {"hidden_size": 1 << 17, "intermediate_size": 1 << 19}
    [cpu, *_] = check_base(write_config(tmp_path, huge)).devices
    assert cpu.fits == {"train": False, "train_paper": False, "calibrate": False, "serve": False}
    [cpu, *_] = check_base(write_config(tmp_path, LLAMA2_7B | {"num_hidden_layers": 1})).devices
    assert cpu.fits["train"]


def test_what_cannot_be_edited_is_told_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = str(write_tiny_base(tmp_path, kind="mixtral"))
    check = check_base(name)
    assert check.trouble == "layer 0 is a mixture of experts: it has no single mlp.down_proj"
    capsys.readouterr()
    assert main(["base", "check", name, "--json"]) != 0
    output = capsys.readouterr()
    assert json.loads(output.out)["editable"] is False
    assert "mixture of experts" in output.err
    speech = check_base(write_config(tmp_path / "t5", {"model_type": "t5"}))
    assert "not a causal language model" in str(speech.trouble)


def test_a_base_that_is_nowhere_is_refused(tmp_path: Path) -> None:
    for name in (str(tmp_path), str(tmp_path / "none.gguf")):
        with pytest.raises(BaseError):
            check_base(name)


def test_a_gguf_file_is_checked_by_its_header(
    as_gguf: Callable[..., Path], cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = as_gguf()
    check = check_base(str(path))
    assert (check.architecture, check.layers, check.is_editable) == ("llama", 6, True)
    model = load_base(str(path), device="cpu").model
    largest = max(weight.numel() for weight in model.parameters())
    assert check.convert == conversion_peak(model) > 8 * largest
    assert main(["base", "check", str(path)]) == 0
    text = capsys.readouterr().out
    assert "can be edited" in text
    assert "cpu: " in text
    assert "fits all steps" in text


def test_bases_of_both_caches_are_listed_with_size_and_architecture(
    as_gguf: Callable[..., Path],
    tiny_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    hub = tmp_path / "hub"
    assert list_bases(hub) == []
    revision = hub / "models--nobody--tiny" / "snapshots" / ("0" * 40)
    shutil.copytree(tiny_folder, revision)
    (hub / "models--nobody--tiny" / "refs").mkdir()
    (hub / "models--nobody--tiny" / "refs" / "main").write_text("0" * 40)
    folder = resolve_base(str(as_gguf()))
    converted, fetched = list_bases(hub)
    assert (converted.name, converted.folder) == (str(folder), folder)
    assert converted.architecture == "llama"
    assert converted.num_bytes == (folder / "model.safetensors").stat().st_size
    assert (fetched.name, fetched.architecture) == ("nobody/tiny", "llama")
    assert fetched.num_bytes == (tiny_folder / "model.safetensors").stat().st_size
    assert load_base(converted.name, device="cpu").num_layers == 6
    assert main(["base", "list", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["bases"]}
    assert rows[str(folder)]["profile"] is None
