"""Bundles: the tensors of a wave in one safetensors file, named by the sha256 of its bytes."""

import json
import re
import struct
from collections.abc import Mapping
from typing import Any

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
    storage.put_new(bundle_path(digest), data)
    return digest


def load_bundle(storage: Storage, digest: str) -> dict[str, Tensor]:
    """The tensors of a bundle. Raises NotFoundError, or IntegrityError for damaged bytes."""
    return safetensors.torch.load(read_bundle(storage, digest))


def read_bundle(storage: Storage, digest: str) -> bytes:
    """The checked bytes of a bundle. Raises as `load_bundle` does."""
    path = bundle_path(digest)
    try:
        data = storage.read(path)
    except NotFoundError as err:
        raise NotFoundError(
            f"bundle {digest[:12]} is missing ({storage.child_uri(path)}): where `scen gc` deleted "
            "it, ask a newer version; else restore the file from a backup, or run the wave that "
            "made it again in a new store"
        ) from err
    found = digest_bytes(data)
    if found != digest:
        raise IntegrityError(
            f"bundle {digest[:12]} is damaged ({storage.child_uri(path)} has sha256 "
            f"{found[:12]}...): restore the file from a backup"
        )
    return data


def count_rows(data: bytes) -> int:
    """How many rows all tensors of a bundle have, from its header alone. Raises IntegrityError
    where it has none or they differ."""
    (length,) = struct.unpack("<Q", data[:8])
    header: dict[str, Any] = json.loads(data[8 : 8 + length])
    counts = {value["shape"][0] for name, value in header.items() if name != "__metadata__"}
    if len(counts) != 1:
        raise IntegrityError(f"bundle: its tensors have {sorted(counts)} rows, not one number")
    return int(counts.pop())


def bundle_path(digest: str) -> str:
    """Where a bundle lies in its store. Raises IntegrityError for what is no digest."""
    if not _DIGEST.fullmatch(digest):
        raise IntegrityError(f"bundle: {digest!r} is not a sha256 in hex")
    return f"bundles/{digest}.safetensors"
