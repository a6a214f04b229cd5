"""Bundles: the tensors of a wave in one safetensors file, named by the sha256 of its bytes."""

import re
from collections.abc import Mapping

import safetensors.torch
from torch import Tensor

from scen.errors import IntegrityError, NotFoundError
from scen.fs import Storage
from scen.records import digest_bytes

_DIGEST = re.compile(r"[0-9a-f]{64}")


def save_bundle(storage: Storage, tensors: Mapping[str, Tensor]) -> str:
    """Write tensors once and return their digest; equal tensors have an equal digest."""
    plain = {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
    data = safetensors.torch.save(plain)
    digest = digest_bytes(data)
    storage.put_new(_path(digest), data)
    return digest


def load_bundle(storage: Storage, digest: str) -> dict[str, Tensor]:
    """The tensors of a bundle. Raises NotFoundError, or IntegrityError for damaged bytes."""
    path = _path(digest)
    try:
        data = storage.read(path)
    except NotFoundError as err:
        raise NotFoundError(
            f"bundle {digest[:12]} is missing ({storage.child_uri(path)}): restore the file from a "
            "backup, or run the wave that made it again in a new store"
        ) from err
    found = digest_bytes(data)
    if found != digest:
        raise IntegrityError(
            f"bundle {digest[:12]} is damaged ({storage.child_uri(path)} has sha256 "
            f"{found[:12]}...): restore the file from a backup"
        )
    return safetensors.torch.load(data)


def _path(digest: str) -> str:
    if not _DIGEST.fullmatch(digest):
        raise IntegrityError(f"bundle: {digest!r} is not a sha256 in hex")
    return f"bundles/{digest}.safetensors"
