"""Frozen base models, resolved by name, with their template and fingerprint.

A base is the embedded default, a hub id, a local folder or a .gguf file.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from scen.errors import ConfigError
from scen.model.batch import cache_name
from scen.model.decoder import TESTED, check_parts
from scen.model.gguf import convert_gguf
from scen.model.template import Template, TemplateName
from scen.model.weights import (
    EMBEDDED_NAME,
    check_architecture,
    count_parameters,
    fetch_embedded,
    fetch_hub,
    fetch_hub_config,
    fingerprint_base,
    read_folder_config,
    read_folder_model,
    read_folder_tokenizer,
    read_generation_config,
)

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Base:
    """A frozen base. Its weights are loaded on first use of `model`.

    `fingerprint` covers weights, tokenizer and template; `config` is its config.json. The weights
    are loaded to `load_device` in `load_dtype`.
    """

    name: str
    folder: Path
    config: Any
    tokenizer: Any
    template: Template
    fingerprint: str
    load_device: torch.device
    load_dtype: torch.dtype

    @cached_property
    def model(self) -> Any:
        """The model with its weights. Raises BaseError if they cannot be read, or if running an
        untested architecture layer by layer does not reproduce its full forward pass."""
        model = read_folder_model(self.folder, self.load_dtype)
        model = model.to(self.load_device).eval().requires_grad_(False)
        is_sharded = hasattr(next(model.parameters()), "ds_tensor")
        if self.config.model_type not in TESTED and not is_sharded:
            check_parts(model)
        return model

    @property
    def is_loaded(self) -> bool:
        """True where this process holds the weights."""
        return "model" in vars(self)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        device: torch.device = self.model.device if self.is_loaded else self.load_device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        dtype: torch.dtype = self.model.dtype if self.is_loaded else self.load_dtype
        return dtype

    @cached_property
    def num_parameters(self) -> int:
        """Number of parameters."""
        return count_parameters(self.config)

    @property
    def stop_ids(self) -> frozenset[int]:
        """Token ids that end an answer."""
        configured = self._generation_config.eos_token_id
        end_ids = configured if isinstance(configured, list) else [configured]
        return frozenset({self.template.end_id, *(i for i in end_ids if i is not None)})

    @cached_property
    def _generation_config(self) -> Any:
        if self.is_loaded:
            return self.model.generation_config
        return read_generation_config(self.folder, self.config)

    @property
    def pad_id(self) -> int:
        """Token id for padding; always masked."""
        pad = self.tokenizer.pad_token_id
        return int(self.template.end_id if pad is None else pad)

    @property
    def num_layers(self) -> int:
        """Number of decoder layers."""
        return int(self.config.num_hidden_layers)

    def describe(self) -> dict[str, object]:
        """Name, fingerprint, template, dtype, device and sizes, as JSON types."""
        config = self.config
        return {
            "name": self.name,
            "fingerprint": self.fingerprint,
            "template": self.template.name,
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": str(self.device),
            "layers": config.num_hidden_layers,
            "hidden_size": config.hidden_size,
            "intermediate_size": config.intermediate_size,
            "parameters": self.num_parameters,
        }


def resolve_base(
    name: str, say: Callable[[str], None] = lambda _: None, dtype: torch.dtype | None = None
) -> Path:
    """The local folder of a base, downloaded or converted to this dtype if needed (None: that of
    `auto` on this machine).

    `say` is called before long steps. Raises BaseError; for an architecture that cannot be edited,
    before weights are downloaded or converted.
    """
    path = Path(name).expanduser()
    if name == EMBEDDED_NAME:
        path = fetch_embedded(say)
    if path.suffix == ".gguf":
        return convert_gguf(path, dtype or pick_dtype("auto", pick_device("auto")), say)
    folder = path if path.is_dir() else fetch_hub_config(name)
    check_architecture(read_folder_config(folder))
    return folder if path.is_dir() else fetch_hub(name)


def load_base(
    name: str,
    *,
    template: TemplateName = "auto",
    dtype: str = "auto",
    device: str = "auto",
    say: Callable[[str], None] = lambda _: None,
) -> Base:
    """Load a base for inference, all parameters frozen. Raises BaseError, ConfigError."""
    base = open_base(name, template=template, dtype=dtype, device=device, say=say)
    _ = base.model
    return base


def open_base(
    name: str,
    *,
    template: TemplateName = "auto",
    dtype: str = "auto",
    device: str = "auto",
    say: Callable[[str], None] = lambda _: None,
) -> Base:
    """Open a base without loading its weights; their files are hashed for the fingerprint, with
    cached digests. Raises BaseError, ConfigError."""
    cache_name()  # refuses untested versions of transformers
    load_device = pick_device(device)
    load_dtype = pick_dtype(dtype, load_device)
    folder = resolve_base(name, say, load_dtype)
    config = read_folder_config(folder)
    tokenizer = read_folder_tokenizer(folder)
    prompt_template = Template(template, tokenizer)
    fingerprint = fingerprint_base(folder, prompt_template)
    return Base(
        _full_name(name),
        folder,
        config,
        tokenizer,
        prompt_template,
        fingerprint,
        load_device,
        load_dtype,
    )


def pick_device(name: str) -> torch.device:
    """`auto` is the first GPU, else the CPU. Raises ConfigError for an unknown or absent device."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.zeros(0, device=name).device
    except (RuntimeError, AssertionError) as err:
        raise ConfigError(
            f"device: {name!r} is not a torch device of this machine, such as cpu or cuda:0"
        ) from err


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 where the hardware supports it natively, else float32. Raises
    ConfigError."""
    if name == "auto":
        return torch.bfloat16 if _has_native_bfloat16(device) else torch.float32
    if name not in _DTYPES:
        raise ConfigError(f"dtype: {name!r} is not one of auto, {', '.join(_DTYPES)}")
    return _DTYPES[name]


def _full_name(name: str) -> str:
    """The name; relative paths become absolute, as stores are opened from other folders."""
    path = Path(name).expanduser()
    return str(path.absolute()) if name != EMBEDDED_NAME and path.exists() else name


def _has_native_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text() if cpuinfo.exists() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags
