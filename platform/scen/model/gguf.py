"""Conversion of a GGUF file to the safetensors form that bases are loaded from, tensor by tensor.

Names and layouts are mapped by transformers; weights are dequantised by gguf. Memory holds the
largest tensor in float32, never the model.
"""

import contextlib
import hashlib
import io
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import gguf
import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import AutoConfig, AutoTokenizer, GenerationConfig
from transformers.modeling_gguf_pytorch_utils import (
    TENSOR_PROCESSORS,
    TensorProcessor,
    get_gguf_hf_weights_map,
)

from scen.errors import BaseError
from scen.model.weights import (
    MARKER,
    cache_root,
    cached_digest,
    check_architecture,
    check_marker,
    digest_file,
    empty_model,
    make_cache,
    reading,
)

_CODES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
_BLOCK = 1 << 24  # weights that are dequantised or written at once
_SPARE = 1 << 26  # bytes of disk for tokenizer and configuration
_SECONDS = 12e-9  # per weight, on one core
_PROCESS = 600 << 20  # bytes of Python, torch and transformers


class _Reader(gguf.GGUFReader):
    """A GGUF reader over a plain array: slices of a memory map cost several times as much, and
    every word of the vocabulary is one."""

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value.view(np.ndarray) if name == "data" else value)


@contextlib.contextmanager
def _reading_gguf(path: Path) -> Iterator[None]:
    """As `reading`; transformers uses the faster reader in it, and its own bar is muted."""
    module: Any = gguf
    slow = module.GGUFReader
    with reading(f"{path} cannot be read as GGUF"), contextlib.redirect_stderr(io.StringIO()):
        module.GGUFReader = _Reader
        try:
            yield
        finally:
            module.GGUFReader = slow


def read_gguf_config(path: Path) -> Any:
    """The config of a GGUF file, from its header alone. Raises BaseError, also for architectures
    that transformers cannot read from GGUF."""
    with _reading_gguf(path):
        return AutoConfig.from_pretrained(path.parent, gguf_file=path.name)


def conversion_peak(model: Any) -> int:
    """Estimated peak memory (bytes) of converting a model of these shapes: the process, and the
    largest weight in float32 with the copies of a permutation."""
    return _PROCESS + 2 * 4 * max(int(weight.numel()) for weight in model.parameters())


def convert_gguf(
    path: Path, dtype: torch.dtype = torch.float32, say: Callable[[str], None] = lambda _: None
) -> Path:
    """The folder with the safetensors form of a GGUF file in this dtype or in float32, kept in the
    user's cache.

    The folder's name contains the sha256 of the GGUF file. Its marker, written last, contains that
    of the float32 weights, which identifies the base whatever the dtype, and that of the stored
    file. Raises BaseError and leaves nothing behind: for an architecture that cannot be edited,
    from the header alone, and if the disk is too small, before it starts.
    """
    if not path.is_file():
        raise BaseError(f"base: {path} does not exist")
    exact = cache_root() / "bases" / f"{path.stem.lower()}-{cached_digest(path)[:16]}"
    folder = exact if dtype == torch.float32 else exact.with_name(f"{exact.name}-{_name(dtype)}")
    for kept in (folder, exact):
        if (kept / MARKER).exists():
            check_marker(kept)
            return kept
    config = read_gguf_config(path)
    check_architecture(config)
    require_gguf_reader()
    with tempfile.TemporaryDirectory(dir=make_cache("bases")) as scratch:
        part = Path(scratch) / "part"
        part.mkdir()
        _convert(path, config, dtype, part, say)
        # Unless another process finished first, and may be reading it.
        if not (folder / MARKER).exists():
            shutil.rmtree(folder, ignore_errors=True)
            part.replace(folder)
    return folder


def require_gguf_reader(version: str = transformers.__version__) -> None:
    """Raises BaseError if this version of transformers reads the tokenizer of a GGUF file wrongly,
    as 5.16 does. What a later version has converted may be used with any."""
    if tuple(int(number) for number in version.split(".")[:2]) < (5, 18):
        raise BaseError(
            f"base: transformers {version} reads GGUF files wrongly; convert this one with 5.18 or "
            "newer (scen base fetch), after which it can be used here too"
        )


def _convert(
    path: Path, config: Any, dtype: torch.dtype, folder: Path, say: Callable[[str], None]
) -> None:
    """Write a base to a folder, the marker last."""
    with _reading_gguf(path):
        source = _Source(path, config)
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    num_bytes = source.num_weights * dtype.itemsize
    _require_space(folder, path, num_bytes)
    minutes = max(1, round(_SECONDS * source.num_weights / 60))
    say(
        f"converting {path.name} to {_name(dtype)} safetensors "
        f"({num_bytes / 1e9:.1f} GB, once; about {minutes} min)"
    )
    weights = folder / "model.safetensors"
    with _writing(folder), _bar(source.num_weights) as advance:
        with weights.open("xb") as stream:
            digest = source.write(stream, dtype, advance)
        config.architectures = [type(source.model).__name__]
        config.dtype = dtype
        config.save_pretrained(folder)
        GenerationConfig.from_model_config(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        marker = {"gguf": path.name, "weights_sha256": digest}
        if dtype != torch.float32:
            marker["file_sha256"] = digest_file(weights)
        (folder / MARKER).write_text(json.dumps(marker))


class _Source:
    """The weights of a GGUF file under the names and in the layouts of transformers.

    Raises LookupError if one is missing.
    """

    def __init__(self, path: Path, config: Any) -> None:
        self.model = empty_model(config)
        self._path, reader = path, _Reader(path)
        architecture = reader.fields["general.architecture"].contents()
        processor: Any = TENSOR_PROCESSORS.get(architecture, TensorProcessor)
        self._processor = processor(config=config.to_dict())
        map_names: Any = get_gguf_hf_weights_map
        self._names: dict[str, str] = map_names(self.model, self._processor)
        tied = self.model.all_tied_weights_keys if config.tie_word_embeddings else {}
        self._shapes = {
            name: tuple(weight.shape)
            for name, weight in self.model.state_dict().items()
            if name not in tied
        }
        self._tensors = {
            self._names[tensor.name]: tensor
            for tensor in reader.tensors
            if self._names.get(tensor.name) in self._shapes
        }
        if missing := sorted(self._shapes.keys() - self._tensors.keys()):
            raise LookupError(f"it lacks {', '.join(missing[:3])}")

    @property
    def num_weights(self) -> int:
        """Number of weights."""
        return sum(int(np.prod(shape)) for shape in self._shapes.values())

    def write(self, stream: BinaryIO, dtype: torch.dtype, advance: Callable[[int], None]) -> str:
        """Write one safetensors file. Returns the sha256 (hex) of the float32 file; `advance` is
        called with the number of weights that each step wrote."""
        stream.write(self._header(dtype))
        exact = hashlib.sha256(self._header(torch.float32))
        for name in sorted(self._shapes):
            with reading(f"{self._path} cannot be read as GGUF"):
                flat = torch.from_numpy(self._read(name)).flatten()
            for begin in range(0, len(flat), _BLOCK):
                block = flat[begin : begin + _BLOCK]
                exact.update(_bytes(block))
                stream.write(_bytes(block.to(dtype)))
                advance(len(block))
        return exact.hexdigest()

    def _header(self, dtype: torch.dtype) -> bytes:
        """Length and header of a safetensors file, as the library writes them."""
        entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        end = 0
        for name in sorted(self._shapes):
            begin, end = end, end + int(np.prod(self._shapes[name])) * dtype.itemsize
            shape = list(self._shapes[name])
            entries[name] = {"dtype": _CODES[dtype], "shape": shape, "data_offsets": [begin, end]}
        text = json.dumps(entries, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text

    def _read(self, name: str) -> NDArray[np.float32]:
        tensor = self._tensors[name]
        # Row by row: gguf itself would hold a tensor twice.
        rows = max(1, _BLOCK // int(tensor.shape[0]))
        whole = np.empty(tuple(reversed(tensor.shape.tolist())), np.float32)
        step = rows if whole.ndim > 1 else len(whole)
        for begin in range(0, len(whole), step):
            part = tensor.data[begin : begin + step]
            whole[begin : begin + step] = gguf.dequantize(part, tensor.tensor_type)
        processed = self._processor.process(
            weights=whole, name=tensor.name, tensor_key_mapping=self._names, parsed_parameters={}
        )
        weights = np.ascontiguousarray(processed.weights, np.float32)
        if weights.shape != self._shapes[name]:
            raise ValueError(f"{name} has shape {weights.shape}, not {self._shapes[name]}")
        return weights


def _bytes(flat: torch.Tensor) -> memoryview:
    return flat.view(torch.uint8).numpy().data


def _require_space(folder: Path, path: Path, num_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < num_bytes + _SPARE:
        raise BaseError(
            f"base: converting {path.name} needs {num_bytes / 1e9:.1f} GB in {cache_root()}, which "
            f"has {free / 1e9:.1f} GB free; make room, or set SCEN_CACHE to another folder"
        )


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as err:
        raise BaseError(
            f"base: {folder} cannot be written ({err.strerror}); make room, or set SCEN_CACHE to "
            "another folder"
        ) from err


@contextlib.contextmanager
def _bar(total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar over the weights, if stderr is a terminal."""
    console = Console(stderr=True)
    columns = TextColumn("  converting"), BarColumn(bar_width=36), TimeRemainingColumn()
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("", total=total)
        yield lambda count: bar.advance(task, count)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
