"""Find a base by name, load it frozen, and say exactly which one it is.

A base is the embedded default, a hub id, a local folder or a .gguf file. Only Llama-architecture
models are supported.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from scen.base.convert import convert_gguf
from scen.base.embedded import EMBEDDED_NAME, fetch_embedded
from scen.base.fingerprint import fingerprint_base
from scen.base.hub import fetch_hub
from scen.base.read import read_folder_model, read_folder_tokenizer
from scen.base.template import Template, TemplateName
from scen.errors import BaseError, ConfigError

SUPPORTED = "Llama-2, Llama-3.x, SmolLM2, TinyLlama (config.json: model_type llama)"
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Base:
    """A loaded, frozen base. `fingerprint` covers weights, tokenizer and template."""

    name: str
    folder: Path
    model: Any
    tokenizer: Any
    template: Template
    fingerprint: str

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        device: torch.device = self.model.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """The number type of the weights."""
        dtype: torch.dtype = self.model.dtype
        return dtype

    @property
    def stop_ids(self) -> frozenset[int]:
        """Token ids that end an answer."""
        configured = self.model.generation_config.eos_token_id
        more = configured if isinstance(configured, list) else [configured]
        return frozenset({self.template.end_id, *(i for i in more if i is not None)})

    @property
    def pad_id(self) -> int:
        """A token id to fill rows with; masks keep it from mattering."""
        pad = self.tokenizer.pad_token_id
        return int(self.template.end_id if pad is None else pad)

    @property
    def num_layers(self) -> int:
        """Number of decoder layers."""
        return int(self.model.config.num_hidden_layers)

    def describe(self) -> dict[str, object]:
        """The facts of this base as JSON types."""
        config = self.model.config
        return {
            "name": self.name,
            "fingerprint": self.fingerprint,
            "template": self.template.name,
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": str(self.device),
            "layers": config.num_hidden_layers,
            "hidden_size": config.hidden_size,
            "intermediate_size": config.intermediate_size,
            "parameters": sum(p.numel() for p in self.model.parameters()),
        }


def resolve_base(name: str, say: Callable[[str], None] = lambda _: None) -> Path:
    """The local folder of a base, fetched or converted where needed. Raises BaseError.

    `say` is told what takes long.
    """
    path = Path(name).expanduser()
    if name == EMBEDDED_NAME:
        path = fetch_embedded(say)
    if path.suffix == ".gguf":
        folder = convert_gguf(path, say)
    else:
        folder = path if path.is_dir() else fetch_hub(name)
    check_architecture(folder)
    return folder


def check_architecture(folder: Path) -> None:
    """Raises BaseError where the folder is not a supported model."""
    try:
        kind = json.loads((folder / "config.json").read_text())["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise BaseError(f"base: {folder} has no readable config.json with a model_type") from err
    if kind != "llama":
        raise BaseError(f"base: model_type {kind!r} is not supported. Supported: {SUPPORTED}")


def load_base(
    name: str,
    *,
    template: TemplateName = "auto",
    dtype: str = "auto",
    device: str = "auto",
    say: Callable[[str], None] = lambda _: None,
) -> Base:
    """Load a base for inference, all parameters frozen. Raises BaseError, ConfigError."""
    place = pick_device(device)
    number = pick_dtype(dtype, place)
    folder = resolve_base(name, say)
    tokenizer = read_folder_tokenizer(folder)
    form = Template(template, tokenizer)
    model = read_folder_model(folder, number).to(place).eval().requires_grad_(False)
    return Base(_full_name(name), folder, model, tokenizer, form, fingerprint_base(folder, form))


def pick_device(name: str) -> torch.device:
    """`auto` is the first GPU, else the CPU. Raises ConfigError for one that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.zeros(0, device=name).device
    except (RuntimeError, AssertionError) as err:
        raise ConfigError(
            f"device: {name!r} is not a torch device of this machine, such as cpu or cuda:0"
        ) from err


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 where the hardware multiplies it natively, else float32. Raises
    ConfigError."""
    if name == "auto":
        return torch.bfloat16 if _is_fast_at_bfloat16(device) else torch.float32
    if name not in _DTYPES:
        raise ConfigError(f"dtype: {name!r} is not one of auto, {', '.join(_DTYPES)}")
    return _DTYPES[name]


def _full_name(name: str) -> str:
    """A name that means the same base in whichever folder a store is opened."""
    path = Path(name).expanduser()
    return str(path.absolute()) if name != EMBEDDED_NAME and path.exists() else name


def _is_fast_at_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    facts = Path("/proc/cpuinfo")
    flags = facts.read_text() if facts.exists() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags
