"""The user's cache of prepared bases: `$SCEN_CACHE`, or `scen` under the XDG cache folder."""

import hashlib
import os
from pathlib import Path


def cache_root() -> Path:
    """The cache folder of this user. It may not exist yet."""
    if explicit := os.environ.get("SCEN_CACHE"):
        return Path(explicit).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "scen"


def digest_file(path: Path) -> str:
    """sha256 (hex) of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
