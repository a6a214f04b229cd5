"""Bundles as tensors. The only module of the ledger that imports torch."""

from collections.abc import Mapping

import safetensors.torch
from torch import Tensor

from scen.fs import Storage
from scen.ledger.bundles import bundle_path, read_bundle
from scen.records import digest_bytes


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
