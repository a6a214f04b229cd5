"""Which base is this? A digest over weights, tokenizer and template."""

import contextlib
import os
from pathlib import Path

from scen.base.cache import cache_root, digest_file
from scen.base.template import Template
from scen.errors import BaseError
from scen.records import digest_bytes, digest_json

_LARGE_BYTES = 1 << 26  # less is read in a moment


def fingerprint_base(folder: Path, template: Template) -> str:
    """sha256 (hex) over the weight files, the tokenizer and the template of a base."""
    weights = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    if not weights:
        raise BaseError(f"base: {folder} holds no model.safetensors or .bin weights")
    tokenizer = template.tokenizer
    return digest_json(
        {
            "weights": [_digest_once(path) for path in weights],
            "tokenizer": digest_bytes(tokenizer.backend_tokenizer.to_str().encode()),
            "template": [template.name, template.render("{}")],
        }
    )


def _digest_once(path: Path) -> str:
    """The digest of a file; a large one's is kept in the cache under path, size and change time."""
    stat = path.resolve().stat()
    if stat.st_size < _LARGE_BYTES:
        return digest_file(path)
    key = digest_json([str(path.resolve()), stat.st_size, stat.st_mtime_ns])
    note = cache_root() / "digests" / key
    if note.exists():
        return note.read_text()
    digest = digest_file(path)
    with contextlib.suppress(OSError):  # without a cache it is read again next time
        note.parent.mkdir(parents=True, exist_ok=True)
        # Whole or not at all: half a note would be taken for another base.
        part = note.with_suffix(f".{os.getpid()}")
        part.write_text(digest)
        part.replace(note)
    return digest
