"""Which base is this? A digest over weights, tokenizer and template."""

import json
from pathlib import Path

from scen.base.cache import cache_root, digest_file
from scen.base.template import Template
from scen.errors import BaseError
from scen.records import digest_bytes, digest_json


def fingerprint_base(folder: Path, template: Template) -> str:
    """sha256 (hex) over the weight files, the tokenizer and the template of a base."""
    weights = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    if not weights:
        raise BaseError(f"base: {folder} holds no .safetensors or .bin weights")
    tokenizer = template.tokenizer
    return digest_json(
        {
            "weights": [_digest_once(path) for path in weights],
            "tokenizer": digest_bytes(tokenizer.backend_tokenizer.to_str().encode()),
            "template": [template.name, template.render("{}")],
        }
    )


def _digest_once(path: Path) -> str:
    """The digest of a large file, kept in the cache under its path, size and time of change."""
    stat = path.resolve().stat()
    key = digest_json([str(path.resolve()), stat.st_size, stat.st_mtime_ns])
    note = cache_root() / "digests" / f"{key}.json"
    if note.exists():
        return str(json.loads(note.read_text()))
    digest = digest_file(path)
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps(digest))
    return digest
