"""Whether a base can be edited and fits into memory, from its config.json or GGUF header alone.

Memory is estimated from shapes for the default settings: training batches of 32 edits with prompts
of 40 tokens, targets of 8 and experts of rank 4; serving 32 concurrent answers of at most 1,024
tokens. The estimates are within 20 % of peaks measured on Qwen2.5-Coder 0.5B and 1.5B.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from huggingface_hub import scan_cache_dir
from huggingface_hub.errors import CacheNotFound

from scen.errors import BaseError
from scen.model.base import pick_dtype
from scen.model.decoder import TESTED, unsupported_reason
from scen.model.gguf import conversion_peak, read_gguf_config
from scen.model.weights import (
    EMBEDDED_NAME,
    MARKER,
    cache_root,
    empty_model,
    fetch_hub_config,
    find_embedded,
    read_folder_config,
)

_PROCESS = 600 << 20  # bytes of Python, torch and transformers
_EDITS, _PROMPT, _TARGET, _RANK = 32, 40, 8, 4
_EDITS_PAPER = 8
_ROWS, _CONTEXT, _SLOTS, _PREFIX = 32, 1024, 64, 256 << 20
_SPANS, _PLACES = 3200, 18  # keys that `scen calibrate` holds at once for 250 edits


@dataclass(frozen=True)
class Memory:
    """Estimated peak memory of each step (bytes), weights included: `train` (method scen-lr),
    `train_paper` (method scen), `calibrate` (250 edits), `serve`."""

    dtype: str
    weights: int
    train: int
    train_paper: int
    calibrate: int
    serve: int


@dataclass(frozen=True)
class Device:
    """A device of this machine: `num_bytes` is its total memory, `fits` says by step whether the
    estimated peak fits."""

    name: str
    num_bytes: int
    dtype: str
    fits: dict[str, bool]


@dataclass(frozen=True)
class BaseCheck:
    """What is known about a base before its weights are read.

    `trouble` is why it cannot be edited (None: it can); `is_tested` is True for architectures that
    the tests cover. `convert` is the peak memory (bytes) of the conversion from GGUF; None for
    other formats.
    """

    name: str
    architecture: str
    trouble: str | None
    is_tested: bool
    layers: int | None = None
    hidden_size: int | None = None
    intermediate_size: int | None = None
    vocabulary: int | None = None
    parameters: int | None = None
    kv_bytes_per_token: int | None = None
    convert: int | None = None
    memory: tuple[Memory, ...] = ()
    devices: tuple[Device, ...] = ()

    @property
    def is_editable(self) -> bool:
        """True where edits can be made."""
        return self.trouble is None

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return {**asdict(self), "editable": self.is_editable}


@dataclass(frozen=True)
class CachedBase:
    """A base on this machine: `name` is a value for --base, `num_bytes` the size of its weights."""

    name: str
    architecture: str
    num_bytes: int
    folder: Path


def check_base(name: str) -> BaseCheck:
    """Check a base by name, folder, .gguf file or hub id; from the hub only config.json is fetched.

    Raises BaseError if there is no such base or no readable config.
    """
    path = Path(name).expanduser()
    if name == EMBEDDED_NAME:
        path = find_embedded()
    if path.suffix == ".gguf":
        if not path.is_file():
            hint = "; download it with `scen base fetch`" if name == EMBEDDED_NAME else ""
            raise BaseError(f"base: {path} does not exist{hint}")
        return check_config(name, read_gguf_config(path), is_gguf=True)
    return check_config(name, read_folder_config(path if path.is_dir() else fetch_hub_config(name)))


def check_config(name: str, config: Any, *, is_gguf: bool = False) -> BaseCheck:
    """Check a transformers config, on the meta device."""
    model_type = str(config.model_type)
    try:
        model = empty_model(config)
    except BaseError as err:
        return BaseCheck(name, model_type, str(err).removeprefix("base: "), model_type in TESTED)
    if trouble := unsupported_reason(model):
        return BaseCheck(name, model_type, trouble, model_type in TESTED)
    parameters = sum(weight.numel() for weight in model.parameters())
    memory = {dtype: estimate_memory(config, parameters, dtype) for dtype in _WIDTHS}
    devices = tuple(
        Device(str(device), size, dtype, _fits(memory[dtype], size))
        for device, size in _devices()
        for dtype in [_dtype_name(pick_dtype("auto", device))]
    )
    return BaseCheck(
        name,
        model_type,
        None,
        model_type in TESTED,
        config.num_hidden_layers,
        config.hidden_size,
        config.intermediate_size,
        config.vocab_size,
        parameters,
        _kv_bytes(config, 2),
        conversion_peak(model) if is_gguf else None,
        tuple(memory.values()),
        devices,
    )


def estimate_memory(config: Any, parameters: int, dtype: str) -> Memory:
    """Estimated peak memory (bytes) with weights of this dtype."""
    width = _WIDTHS[dtype]
    layers, inner, hidden = config.num_hidden_layers, config.intermediate_size, config.hidden_size
    weights = width * parameters
    logits = _TARGET * config.vocab_size * 16  # with their float32 copy, softmax and gradient
    # Activations kept for the backward pass.
    activations = -(-layers // 3) * _TARGET * (8 * hidden + 4 * inner) * width
    prefilled = _PROMPT * (_kv_bytes(config, width) + (2 * inner + 4 * hidden) * width)
    expert = 16 * _RANK * (inner + hidden)  # float32, its gradient and two moments of Adam
    train = _PROCESS + weights + _EDITS * (logits + activations + prefilled + expert)
    positions = 1 + _PROMPT // _TARGET  # of the whole prompt, relative to the target
    train_paper = _EDITS_PAPER * (
        16 * inner * hidden + (logits + activations) * positions + prefilled
    )
    serve = _ROWS * (_CONTEXT * _kv_bytes(config, width) + 8 * config.vocab_size)
    serve += _PREFIX + _SLOTS * expert // 4
    return Memory(
        dtype,
        weights,
        train,
        _PROCESS + weights + train_paper,
        train + 4 * _SPANS * _PLACES * inner,
        _PROCESS + weights + serve,
    )


def list_bases(hub_cache: Path | None = None) -> list[CachedBase]:
    """Bases that need no download: converted GGUF files in the user's cache, and models with a
    config and weights in the hub cache (None: the default of huggingface_hub)."""
    return sorted([*_converted(), *_from_hub(hub_cache)], key=lambda base: base.name)


def _converted() -> Iterator[CachedBase]:
    for marker in cache_root().glob(f"bases/*/{MARKER}"):
        folder, gguf = marker.parent, str(json.loads(marker.read_text())["gguf"])
        is_embedded = gguf == find_embedded().name
        yield _cached(EMBEDDED_NAME if is_embedded else str(folder), folder)


def _from_hub(hub_cache: Path | None) -> Iterator[CachedBase]:
    try:
        repos = scan_cache_dir(hub_cache).repos
    except CacheNotFound:
        return
    for repo in repos:
        for revision in repo.revisions:
            folder = revision.snapshot_path
            if repo.repo_type == "model" and "main" in revision.refs and _weights(folder):
                yield _cached(repo.repo_id, folder)


def _cached(name: str, folder: Path) -> CachedBase:
    config = json.loads((folder / "config.json").read_text())
    sizes = (path.stat().st_size for path in _weights(folder))
    return CachedBase(name, str(config.get("model_type")), sum(sizes), folder)


def _weights(folder: Path) -> list[Path]:
    """The weight files of a folder with a config.json."""
    if not (folder / "config.json").is_file():
        return []
    return list(folder.glob("*.safetensors")) or list(folder.glob("*.bin"))


_WIDTHS = {"bfloat16": 2, "float32": 4}


def _kv_bytes(config: Any, width: int) -> int:
    """Bytes of the keys and values of one token."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * size * width)


def _devices() -> Iterator[tuple[torch.device, int]]:
    yield torch.device("cpu"), psutil.virtual_memory().total
    for index in range(torch.cuda.device_count()):
        size = torch.cuda.get_device_properties(index).total_memory
        yield torch.device("cuda", index), size


def _fits(memory: Memory, num_bytes: int) -> dict[str, bool]:
    steps = ("train", "train_paper", "calibrate", "serve")
    return {step: getattr(memory, step) <= num_bytes for step in steps}


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
