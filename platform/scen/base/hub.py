"""A base from a model hub, through huggingface_hub and its cache."""

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from scen.errors import BaseError

_SMALL_FILES = ["*.json", "*.model", "*.jinja", "tokenizer*"]


def fetch_hub(name: str) -> Path:
    """The local folder of a hub id; safetensors where the repository has them. Raises BaseError."""
    try:
        folder = Path(snapshot_download(name, allow_patterns=[*_SMALL_FILES, "*.safetensors"]))
        if not list(folder.glob("*.safetensors")):
            folder = Path(snapshot_download(name, allow_patterns=[*_SMALL_FILES, "*.bin"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as err:
        raise BaseError(
            f"base: {name!r} is not a folder or a .gguf file, and could not be had from the hub "
            f"({type(err).__name__}). Check the spelling, the network, "
            "and HF_TOKEN for gated models."
        ) from err
    return folder
