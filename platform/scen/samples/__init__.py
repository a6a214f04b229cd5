"""Small files of real edits and questions, for the demo, the tests and a first try.

Where they come from and under which licences they stand: README.md in this folder.
"""

from importlib.resources import files
from pathlib import Path

from scen.errors import NotFoundError


def sample_path(name: str) -> Path:
    """The file of a sample, such as "zsre_edits.jsonl". Raises NotFoundError."""
    known = sample_names()
    if name not in known:
        raise NotFoundError(f"sample: there is no {name!r}; there are {', '.join(known)}")
    return Path(str(files(__name__))) / name


def sample_names() -> list[str]:
    """The names of all samples."""
    return sorted(
        item.name for item in files(__name__).iterdir() if item.name.endswith((".jsonl", ".yaml"))
    )
