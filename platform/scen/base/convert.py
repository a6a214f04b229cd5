"""GGUF to safetensors, once per file: reading GGUF takes half a minute, safetensors a second."""

import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

from scen.base.cache import cache_root, digest_file, make_cache
from scen.base.quiet import without_bars
from scen.base.read import read_gguf
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
        with tempfile.TemporaryDirectory(dir=make_cache("bases")) as scratch, without_bars():
            part = Path(scratch) / "part"
            _write_safetensors(path, part)
            if not (folder / _MARKER).exists():  # else another process was first, and may read it
                shutil.rmtree(folder, ignore_errors=True)
                part.replace(folder)
    _check_weights(folder)
    return folder


def _write_safetensors(path: Path, folder: Path) -> None:
    model, tokenizer = read_gguf(path)
    # The loader marks the model as quantised, and such a model refuses to be saved.
    model.hf_quantizer, model.is_quantized = None, False
    del model.config.quantization_config
    with redirect_stdout(sys.stderr):  # DeepSpeed, which this imports, greets on stdout
        model.save_pretrained(folder, max_shard_size="1TB")  # one file, whatever its size
    tokenizer.save_pretrained(folder)
    marker = {"gguf": path.name, "weights_sha256": digest_file(folder / "model.safetensors")}
    (folder / _MARKER).write_text(json.dumps(marker))


def _check_weights(folder: Path) -> None:
    expected = json.loads((folder / _MARKER).read_text())["weights_sha256"]
    weights = folder / "model.safetensors"
    if not weights.is_file() or digest_file(weights) != expected:
        raise BaseError(f"base: {folder} is damaged; delete it and run `scen base fetch` again")
