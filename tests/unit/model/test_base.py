"""Loading: what is supported, what is refused, and which base it is."""

import inspect
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from scen.errors import BaseError, ConfigError
from scen.model.base import Base, load_base, open_base, pick_device, pick_dtype, resolve_base
from scen.model.batch import cache_name


def fingerprint(folder: Path, template: str = "raw") -> str:
    return load_base(str(folder), template=template, dtype="float32", device="cpu").fingerprint  # type: ignore[arg-type]


def test_a_base_is_frozen_and_ready_for_inference(tiny: Base) -> None:
    assert not any(p.requires_grad for p in tiny.model.parameters())
    assert not tiny.model.training
    assert tiny.dtype == torch.float32
    assert tiny.stop_ids == {2}
    assert tiny.describe()["layers"] == 6


def test_all_is_known_of_a_base_without_its_weights(tiny: Base, tiny_folder: Path) -> None:
    bare = open_base(str(tiny_folder), template="llama2-inst", dtype="float32", device="cpu")
    assert bare.describe() == tiny.describe()
    assert bare.stop_ids == tiny.stop_ids
    assert bare.num_parameters == sum(w.numel() for w in tiny.model.parameters())
    assert (bare.device, bare.dtype, bare.num_layers) == (torch.device("cpu"), torch.float32, 6)
    assert (bare.pad_id, bare.template.render("x")) == (tiny.pad_id, tiny.template.render("x"))
    assert (tiny.is_loaded, bare.is_loaded) == (True, False)
    weights = dict(bare.model.named_parameters())
    assert bare.is_loaded
    assert all(torch.equal(weights[name], w) for name, w in tiny.model.named_parameters())
    assert not any(w.requires_grad for w in weights.values())
    assert bare.model is bare.model


def test_weights_that_are_not_loaded_are_still_those_of_the_fingerprint(copied: Path) -> None:
    first = open_base(str(copied), device="cpu").fingerprint
    weights = load_file(copied / "model.safetensors")
    weights["model.norm.weight"][0] += 1
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    assert open_base(str(copied), device="cpu").fingerprint != first
    (copied / "model.safetensors").unlink()
    with pytest.raises(BaseError, match=r"holds no model\.safetensors"):
        open_base(str(copied), device="cpu")


def test_another_architecture_is_refused_with_what_is_supported(copied: Path) -> None:
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config | {"model_type": "mixtral"}))
    with pytest.raises(BaseError, match=r"'mixtral' cannot be edited: layer 0 is a mixture.*Llama"):
        load_base(str(copied))


def test_a_folder_without_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BaseError, match=r"config\.json"):
        resolve_base(str(tmp_path))


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


def change_config(folder: Path, **values: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors"),
        (lambda folder: cut(folder / "model.safetensors"), "cannot be read"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "cannot be read"),
        (lambda folder: (folder / "config.json").write_text("[]"), r"config\.json"),
        (lambda folder: (folder / "config.json").write_text("{"), r"config\.json"),
        (lambda folder: change_config(folder, hidden_size="wide"), "hidden_size"),
        (lambda folder: change_config(folder, intermediate_size=65), "cannot be read"),
        # The loader alone would make up the seventh layer from random numbers.
        (lambda folder: change_config(folder, num_hidden_layers=7), r"lacks model\.layers\.6"),
    ],
)
def test_a_damaged_folder_is_refused(
    copied: Path, damage: Callable[[Path], object], words: str
) -> None:
    damage(copied)
    with pytest.raises(BaseError, match=words):
        load_base(str(copied), dtype="float32", device="cpu")


def test_every_end_token_of_the_generation_config_stops_an_answer(copied: Path) -> None:
    path = copied / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": [2, 7]}))
    assert load_base(str(copied), device="cpu").stop_ids == {2, 7}


def test_a_relative_folder_is_kept_by_its_full_name(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(copied.parent)
    assert load_base("base", device="cpu").name == str(copied)


def test_wrong_settings_are_told_before_anything_is_fetched() -> None:
    for wrong in ({"device": "tpu?"}, {"dtype": "int4"}):
        with pytest.raises(ConfigError):
            load_base("nobody/nothing", **wrong)  # type: ignore[arg-type]


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="'cuda:7' is not a torch device of this machine"):
        pick_device("cuda:7")


def test_number_types_and_devices_are_checked() -> None:
    cpu = torch.device("cpu")
    assert pick_dtype("float16", cpu) == torch.float16
    assert pick_dtype("auto", cpu) in (torch.float32, torch.bfloat16)
    with pytest.raises(ConfigError, match="bfloat16"):
        pick_dtype("int4", cpu)
    with pytest.raises(ConfigError, match="cuda:0"):
        pick_device("tpu?")


@pytest.mark.parametrize(
    ("version", "name"),
    [("5.16.1", "past_key_values"), ("5.23.9", "past_key_values"), ("5.24.0", "cache")],
)
def test_the_cache_has_the_name_that_the_version_of_transformers_reads(
    version: str, name: str
) -> None:
    assert cache_name(version) == name


@pytest.mark.parametrize("version", ["4.57.0", "5.16.0", "5.25.0", "5.25.0.dev0", "6.0"])
def test_an_untested_version_of_transformers_is_refused(version: str) -> None:
    with pytest.raises(BaseError, match=rf"transformers {version} is not supported.*pip install"):
        cache_name(version)


def test_forward_passes_of_the_installed_version_have_the_argument(tiny: Base) -> None:
    """They take any keyword argument, so a wrong name would be ignored."""
    assert cache_name() in inspect.signature(type(tiny.model.model).forward).parameters
