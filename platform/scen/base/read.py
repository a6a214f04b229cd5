"""Read a tokenizer or a model with transformers: quietly, and whole or not at all."""

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from scen.base.quiet import without_bars
from scen.errors import BaseError

# What the libraries raise over a file that is damaged, cut off or something else.
_DAMAGE = (OSError, ValueError, LookupError, RuntimeError, struct.error, SafetensorError)


def read_folder_config(folder: Path) -> Any:
    """The config.json of a folder. Raises BaseError."""
    with _reading(f"{folder} cannot be read; fetch it again"):
        return AutoConfig.from_pretrained(folder)


def count_parameters(config: Any) -> int:
    """How many numbers a model of this config has, from a model without memory."""
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config)
    return sum(weight.numel() for weight in model.parameters())


def read_folder_tokenizer(folder: Path) -> Any:
    """The tokenizer of a folder. Raises BaseError."""
    with _reading(f"{folder} cannot be read; fetch it again"):
        return AutoTokenizer.from_pretrained(folder)


def read_folder_model(folder: Path, dtype: torch.dtype) -> Any:
    """The model of a folder. Raises BaseError."""
    with _reading(f"{folder} cannot be read; fetch it again"):
        return _whole_model(folder, dtype=dtype, attn_implementation="sdpa")


def read_gguf(path: Path) -> tuple[Any, Any]:
    """The model (float32) and the tokenizer of a GGUF file. Raises BaseError."""
    # The reader of GGUF shows a bar that has no switch.
    with _reading(f"{path} cannot be read as GGUF"), redirect_stderr(io.StringIO()):
        model = _whole_model(path.parent, dtype=torch.float32, gguf_file=path.name)
        return model, AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)


def _whole_model(folder: Path, **options: Any) -> Any:
    read: Any = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, **options)
    model, report = read
    # The loader fills what is missing with random numbers and goes on.
    if missing := sorted(report["missing_keys"]):
        raise LookupError(f"it lacks {', '.join(missing[:3])}")
    return model


@contextmanager
def _reading(trouble: str) -> Iterator[None]:
    try:
        with without_bars():
            yield
    except (*_DAMAGE, StrictDataclassError) as err:
        cause = (str(err) or type(err).__name__).splitlines()[0]
        raise BaseError(f"base: {trouble} ({cause})") from err
