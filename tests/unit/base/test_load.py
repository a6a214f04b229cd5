"""Loading: what is supported, what is refused, and which base it is."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from scen.base import hub
from scen.base.convert import convert_gguf
from scen.base.load import Base, load_base, pick_device, pick_dtype, resolve_base
from scen.errors import BaseError, ConfigError


@pytest.fixture
def copied(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny base that a test may change."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "base"))


def fingerprint(folder: Path, template: str = "raw") -> str:
    return load_base(str(folder), template=template, dtype="float32", device="cpu").fingerprint  # type: ignore[arg-type]


def test_a_base_is_frozen_and_ready_for_inference(tiny: Base) -> None:
    assert not any(p.requires_grad for p in tiny.model.parameters())
    assert not tiny.model.training
    assert tiny.dtype == torch.float32
    assert tiny.stop_ids == {2}
    assert tiny.describe()["layers"] == 6


def test_another_architecture_is_refused_with_what_is_supported(copied: Path) -> None:
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config | {"model_type": "mistral"}))
    with pytest.raises(BaseError, match=r"'mistral' is not supported.*Llama-3"):
        load_base(str(copied))


def test_a_folder_without_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BaseError, match=r"config\.json"):
        resolve_base(str(tmp_path))


def test_a_name_that_is_nowhere_names_the_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> str:
        raise OSError("no network")

    monkeypatch.setattr(hub, "snapshot_download", offline)
    with pytest.raises(BaseError, match="HF_TOKEN"):
        resolve_base("nobody/nothing")


@pytest.mark.parametrize("content", [b"not a model", b"GGUF\x03\x00\x00\x00\x01"])
def test_a_damaged_gguf_is_refused(
    tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCEN_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(BaseError, match="cannot be read as GGUF"):
        convert_gguf(path)
    assert list((tmp_path / "cache" / "bases").iterdir()) == []


def test_a_missing_gguf_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BaseError, match="does not exist"):
        resolve_base(str(tmp_path / "none.gguf"))


def test_fingerprint_covers_weights_tokenizer_and_template(copied: Path, tiny_folder: Path) -> None:
    first = fingerprint(tiny_folder)
    assert fingerprint(copied) == first
    assert fingerprint(copied, "llama2-inst") != first
    weights = load_file(copied / "model.safetensors")
    weights["model.norm.weight"][0] += 1
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    assert fingerprint(copied) != first
    shutil.copy(tiny_folder / "model.safetensors", copied)
    tokenizer = json.loads((copied / "tokenizer.json").read_text())
    tokenizer["pre_tokenizer"]["add_prefix_space"] = True
    (copied / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert fingerprint(copied) != first


def test_number_types_and_devices_are_checked() -> None:
    cpu = torch.device("cpu")
    assert pick_dtype("float16", cpu) == torch.float16
    assert pick_dtype("auto", cpu) in (torch.float32, torch.bfloat16)
    with pytest.raises(ConfigError, match="bfloat16"):
        pick_dtype("int4", cpu)
    with pytest.raises(ConfigError, match="cuda:0"):
        pick_device("tpu?")
