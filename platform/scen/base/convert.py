"""GGUF to safetensors, once per file: reading GGUF takes half a minute, safetensors a second."""

import json
import shutil
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from scen.base.cache import cache_root, digest_file
from scen.base.quiet import without_bars
from scen.errors import BaseError

_MARKER = "converted.json"


def convert_gguf(path: Path, say: Callable[[str], None] = lambda _: None) -> Path:
    """The folder with the safetensors form (float32) of a GGUF file. Kept in the user's cache.

    The folder's name holds the sha256 of the GGUF file; its marker, written last, holds that of
    the weights, which is checked when the folder is used again.
    """
    if not path.is_file():
        raise BaseError(f"base: {path} does not exist")
    folder = cache_root() / "bases" / f"{path.stem.lower()}-{digest_file(path)[:16]}"
    if not (folder / _MARKER).exists():
        say(f"converting {path.name} to safetensors (half a minute, once)")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch, without_bars():
            part = Path(scratch) / "part"
            _write_safetensors(path, part)
            shutil.rmtree(folder, ignore_errors=True)
            part.replace(folder)
    _check_weights(folder)
    return folder


def _write_safetensors(path: Path, folder: Path) -> None:
    source = {"gguf_file": path.name}
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            path.parent, dtype=torch.float32, **source
        )
        tokenizer = AutoTokenizer.from_pretrained(path.parent, **source)
    except (ValueError, LookupError, OSError, struct.error) as err:
        raise BaseError(f"base: {path} cannot be read as GGUF: {err}") from err
    # The loader marks the model as quantised, and such a model refuses to be saved.
    model.hf_quantizer, model.is_quantized = None, False
    del model.config.quantization_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    marker = {"gguf": path.name, "weights_sha256": digest_file(folder / "model.safetensors")}
    (folder / _MARKER).write_text(json.dumps(marker))


def _check_weights(folder: Path) -> None:
    expected = json.loads((folder / _MARKER).read_text())["weights_sha256"]
    if digest_file(folder / "model.safetensors") != expected:
        raise BaseError(f"base: {folder} is damaged; delete it and run `scen base fetch` again")
