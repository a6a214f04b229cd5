"""Bundles are named by their bytes: equal tensors, equal name; other bytes, an error."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from scen.errors import IntegrityError, NotFoundError
from scen.fs import Storage
from scen.ledger.bundles import count_rows, read_bundle
from scen.ledger.tensors import load_bundle, save_bundle

ELSEWHERE = """
import sys, torch
from scen.fs import Storage
from scen.ledger.tensors import save_bundle
down = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)
print(save_bundle(Storage(sys.argv[1]), {"up": torch.full((2, 5), 0.5), "down": down}))
"""


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    """An empty store."""
    return Storage(str(tmp_path))


@pytest.fixture
def tensors() -> dict[str, Tensor]:
    """Two experts."""
    down = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)
    return {"down": down, "up": torch.full((2, 5), 0.5)}


def bundle_path(storage: Storage, digest: str) -> Path:
    """The file of a bundle."""
    return storage.local_path / "bundles" / f"{digest}.safetensors"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int64])
def test_tensors_come_back_bit_for_bit(storage: Storage, dtype: torch.dtype) -> None:
    tensors = {
        "key": torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).to(dtype),
        "none": torch.zeros(0, 4, dtype=dtype),
        "one": torch.tensor(7, dtype=dtype),
        "weight": torch.nn.Parameter(torch.ones(2), requires_grad=False).to(dtype),
    }
    loaded = load_bundle(storage, save_bundle(storage, tensors))
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == dtype
        assert torch.equal(loaded[name], tensor)


def test_equal_tensors_are_one_bundle(storage: Storage, tensors: dict[str, Tensor]) -> None:
    digest = save_bundle(storage, tensors)
    strided = {"up": tensors["up"][:, :1].expand(2, 5), "down": tensors["down"].mT.contiguous().mT}
    assert not strided["down"].is_contiguous()
    assert save_bundle(storage, strided) == digest
    assert save_bundle(storage, {n: t.requires_grad_() for n, t in tensors.items()}) == digest
    assert storage.names("") == [f"bundles/{digest}.safetensors"]


def test_equal_tensors_are_one_bundle_in_another_process(
    storage: Storage, tensors: dict[str, Tensor]
) -> None:
    command = [sys.executable, "-P", "-c", ELSEWHERE, storage.uri]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert save_bundle(storage, tensors) == printed.strip()
    assert len(storage.names("")) == 1


def test_other_tensors_are_another_bundle(storage: Storage, tensors: dict[str, Tensor]) -> None:
    digests = {
        save_bundle(storage, tensors),
        save_bundle(storage, {"down": tensors["down"], "UP": tensors["up"]}),
        save_bundle(storage, tensors | {"up": tensors["up"].reshape(5, 2)}),
        save_bundle(storage, tensors | {"up": tensors["up"].half()}),
        save_bundle(storage, tensors | {"up": tensors["up"].nextafter(torch.tensor(1.0))}),
    }
    assert len(digests) == 5


@pytest.mark.parametrize("place", [0, 20, -1])
def test_a_flipped_byte_is_found(storage: Storage, tensors: dict[str, Tensor], place: int) -> None:
    digest = save_bundle(storage, tensors)
    path = bundle_path(storage, digest)
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match=rf"{digest[:12]} is damaged .* from a backup"):
        load_bundle(storage, digest)


def test_a_file_that_is_cut_short_is_found(storage: Storage, tensors: dict[str, Tensor]) -> None:
    digest = save_bundle(storage, tensors)
    path = bundle_path(storage, digest)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(IntegrityError, match="damaged"):
        load_bundle(storage, digest)


def test_a_missing_bundle_says_what_to_do(storage: Storage, tensors: dict[str, Tensor]) -> None:
    digest = save_bundle(storage, tensors)
    bundle_path(storage, digest).unlink()
    with pytest.raises(NotFoundError, match=rf"{digest}\.safetensors.* from a backup"):
        load_bundle(storage, digest)


@pytest.mark.parametrize("digest", ["", "../../store", "A" * 64, "a" * 63, "a" * 64 + "\n"])
def test_only_a_digest_becomes_a_path(storage: Storage, digest: str) -> None:
    with pytest.raises(IntegrityError, match="not a sha256"):
        load_bundle(storage, digest)


def test_rows_are_counted_from_the_header(storage: Storage, tensors: dict[str, Tensor]) -> None:
    assert count_rows(read_bundle(storage, save_bundle(storage, tensors))) == 2
    uneven = save_bundle(storage, {**tensors, "key": torch.ones(3, 1)})
    with pytest.raises(IntegrityError, match=r"\[2, 3\] rows"):
        count_rows(read_bundle(storage, uneven))
