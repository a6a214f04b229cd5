"""The user's cache of prepared bases: `$SCEN_CACHE`, or `scen` under the XDG cache folder."""

import hashlib
import os
from pathlib import Path

from scen.errors import BaseError


def cache_root() -> Path:
    """The cache folder of this user. It may not exist yet."""
    if explicit := os.environ.get("SCEN_CACHE"):
        return Path(explicit).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "scen"


def make_cache(name: str) -> Path:
    """A folder of the cache, made where it is not there. Raises BaseError."""
    folder = cache_root() / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise BaseError(
            f"base: {folder} cannot be made ({err.strerror}); "
            "name a folder for prepared bases in SCEN_CACHE"
        ) from err
    return folder


def digest_file(path: Path) -> str:
    """sha256 (hex) of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
