"""Bundles as tensors. The only module of the ledger that imports torch.

A float tensor may be stored in 8 bits: `NAME` as int8 and `NAME.scale` as float32, with size 1
along the axis that shares a scale. Readers take such tensors through `stored_parts` and
`read_tensor`.
"""

from collections.abc import Iterable, Mapping

import safetensors.torch
import torch
from torch import Tensor

from scen.fs import Storage
from scen.ledger.bundles import bundle_path, read_bundle
from scen.records import digest_bytes

SCALE = ".scale"


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


def pack_int8(name: str, tensor: Tensor, dim: int) -> dict[str, Tensor]:
    """The stored parts of a float tensor in 8 bits. All numbers along `dim` share a scale, by which
    the largest magnitude maps to 127."""
    scale = (tensor.float().abs().amax(dim, keepdim=True) / 127).clamp_min(
        torch.finfo(torch.float32).tiny
    )
    return {name: (tensor.float() / scale).round().to(torch.int8), name + SCALE: scale}


def stored_parts(bundle: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """These tensors of a bundle as they are stored, with their scales."""
    wanted = {part for name in names for part in (name, name + SCALE)}
    return {name: tensor for name, tensor in bundle.items() if name in wanted}


def read_tensor(parts: Mapping[str, Tensor], name: str, rows: object = ...) -> Tensor:
    """Rows of a tensor: float32 or wider if it is a float or stored in 8 bits, else as stored."""
    tensor = parts[name][rows]  # type: ignore[index]
    if name + SCALE in parts:
        return tensor * parts[name + SCALE][rows]  # type: ignore[index]
    if not tensor.is_floating_point():
        return tensor
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
