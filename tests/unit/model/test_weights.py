"""GGUF files are converted once and checked each time; fingerprints are read once per file."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers.utils import logging

from scen.errors import BaseError
from scen.model.base import Base, load_base
from scen.model.weights import convert_gguf, fingerprint_base, require_gguf_reader

AsGguf = Callable[..., Path]


def test_a_gguf_file_is_the_base_that_it_was_written_from(as_gguf: AsGguf, tiny: Base) -> None:
    path = as_gguf()
    found = load_base(str(path), template="llama2-inst", dtype="float32", device="cpu")
    prompt = tiny.template.encode_prompt("Who founded Čačak?")
    assert found.template.encode_prompt("Who founded Čačak?") == prompt
    ids = torch.tensor([prompt.ids])
    with torch.no_grad():
        assert torch.equal(found.model(ids).logits, tiny.model(ids).logits)
    assert (found.name, found.stop_ids) == (str(path), tiny.stop_ids)


def test_a_file_is_converted_once(as_gguf: AsGguf, cache: Path) -> None:
    said: list[str] = []
    folder = convert_gguf(as_gguf(), said.append)
    assert folder.parent == cache / "bases"
    assert len(said) == 1
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert convert_gguf(as_gguf(), said.append) == folder
    assert len(said) == 1
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_conversion_is_quiet_and_leaves_the_bars_as_they_were(
    as_gguf: AsGguf, capfd: pytest.CaptureFixture[str]
) -> None:
    assert logging.is_progress_bar_enabled()
    path = as_gguf()
    capfd.readouterr()
    convert_gguf(path)
    assert capfd.readouterr() == ("", "")
    assert logging.is_progress_bar_enabled()
    with pytest.raises(BaseError):
        convert_gguf(as_gguf(without="norm"))
    assert logging.is_progress_bar_enabled()


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.01, 0.03, 0.5, 0.9999])
def test_a_cut_off_file_is_refused_and_leaves_nothing(
    as_gguf: AsGguf, cache: Path, share: float
) -> None:
    path = as_gguf()
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(BaseError, match=r"Tiny\.gguf cannot be read as GGUF"):
        convert_gguf(path)
    assert list(cache.glob("bases/*")) == []


def test_a_file_that_is_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"not a model")
    with pytest.raises(BaseError, match="cannot be read as GGUF"):
        convert_gguf(path)


def test_a_file_that_lacks_a_weight_is_refused(as_gguf: AsGguf) -> None:
    with pytest.raises(BaseError, match=r"lacks model\.layers\.3\.mlp\.up_proj"):
        convert_gguf(as_gguf(without="layers.3.mlp.up_proj"))


def test_biases_that_an_architecture_has_must_be_there(as_gguf: AsGguf) -> None:
    with pytest.raises(BaseError, match=r"lacks model\.layers\.0\.self_attn"):
        load_base(str(as_gguf(architecture="qwen2")), device="cpu")


@pytest.mark.parametrize(
    ("architecture", "words"),
    [("mpt", "architecture mpt is not supported"), ("gpt2", "'gpt2' cannot be edited")],
)
def test_an_architecture_that_cannot_be_edited_is_refused_from_the_header(
    as_gguf: AsGguf, cache: Path, architecture: str, words: str
) -> None:
    said: list[str] = []
    with pytest.raises(BaseError, match=words):
        convert_gguf(as_gguf(architecture=architecture), said.append)
    assert said == []
    assert not (cache / "bases").exists()


@pytest.mark.parametrize("damage", ["changed", "gone"])
def test_damaged_weights_are_never_loaded(as_gguf: AsGguf, damage: str) -> None:
    path = as_gguf()
    weights = convert_gguf(path) / "model.safetensors"
    if damage == "gone":
        weights.unlink()
    else:
        stored = bytearray(weights.read_bytes())
        stored[-1] ^= 1
        weights.write_bytes(stored)
    with pytest.raises(BaseError, match=r"is damaged; delete it.*scen base fetch"):
        load_base(str(path), device="cpu")


def test_a_cache_that_cannot_be_made_names_the_way_out(
    as_gguf: AsGguf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SCEN_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(BaseError, match="SCEN_CACHE"):
        convert_gguf(as_gguf())


LARGE = 1 << 26


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A folder with weights of 64 MiB, which take no room."""
    folder = tmp_path / "large"
    folder.mkdir()
    with (folder / "model.safetensors").open("wb") as stream:
        stream.truncate(LARGE)
    return folder


def notes(cache: Path) -> list[Path]:
    return list((cache / "digests").glob("*"))


def test_the_digest_of_a_large_file_is_kept_until_the_file_changes(
    large: Path, tiny: Base, cache: Path
) -> None:
    first = fingerprint_base(large, tiny.template)
    [note] = notes(cache)
    weights = large / "model.safetensors"
    stamp = weights.stat().st_mtime_ns
    with weights.open("r+b") as stream:
        stream.write(b"x")
    os.utime(weights, ns=(stamp, stamp))  # the change cannot be seen from outside
    assert fingerprint_base(large, tiny.template) == first
    os.utime(weights, ns=(stamp, stamp + 1))
    assert fingerprint_base(large, tiny.template) != first
    assert len(notes(cache)) == 2
    assert note in notes(cache)


def test_small_files_leave_nothing_in_the_cache(tiny: Base, cache: Path) -> None:
    fingerprint_base(tiny.folder, tiny.template)
    assert not cache.exists()


def test_it_needs_no_cache(large: Path, tiny: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    first = fingerprint_base(large, tiny.template)
    monkeypatch.setenv("SCEN_CACHE", str(large / "model.safetensors" / "cache"))
    assert fingerprint_base(large, tiny.template) == first


def test_shards_count_in_their_order(tmp_path: Path, tiny: Base) -> None:
    found = []
    for shards in (b"ab", b"ba"):
        for number, content in enumerate(shards):
            (tmp_path / f"model-{number}.safetensors").write_bytes(bytes([content]))
        found.append(fingerprint_base(tmp_path, tiny.template))
    assert found[0] != found[1]


def test_older_weights_count_where_there_are_no_safetensors(tmp_path: Path, tiny: Base) -> None:
    with pytest.raises(BaseError, match=r"\.safetensors or \.bin"):
        fingerprint_base(tmp_path, tiny.template)
    (tmp_path / "pytorch_model.bin").write_bytes(b"a")
    first = fingerprint_base(tmp_path, tiny.template)
    (tmp_path / "pytorch_model.bin").write_bytes(b"b")
    assert fingerprint_base(tmp_path, tiny.template) != first


def test_transformers_that_read_a_gguf_tokenizer_wrongly_convert_none() -> None:
    require_gguf_reader("5.18.0")
    for version in ("5.16.1", "5.17.0"):
        with pytest.raises(BaseError, match=rf"transformers {version} reads GGUF files wrongly"):
            require_gguf_reader(version)
