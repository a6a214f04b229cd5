"""Signatures of a version: what they cover, and that whatever is changed shows."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from scen.errors import ConfigError, IntegrityError, NotFoundError
from scen.fs import Storage
from scen.ledger.actions import About, Revoke
from scen.ledger.collect import Keep, collect, plan_collection
from scen.ledger.ledger import open_ledger
from scen.ledger.sign import Signed, sign_version, signed_files, verify_signature
from scen.ledger.table import open_table
from unit.ledger.conftest import Shop, add_wave
from unit.ledger.test_collect import NOW

pytestmark = pytest.mark.slow  # the library takes seconds to import


def make_keys(folder: Path, name: str) -> tuple[Path, Path]:
    """The files of a private key and of its public half."""
    key = ec.generate_private_key(ec.SECP256R1())
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    public.write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return private, public


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    return make_keys(tmp_path, "ann")


@pytest.fixture
def signature(shop: Shop, keys: tuple[Path, Path], tmp_path: Path) -> Path:
    """Of version 3, the newest."""
    path = tmp_path / "v3.sig"
    assert sign_version(shop.storage, shop.ledger, keys[0], path) == Signed(3, 12, 3)
    return path


def test_a_signature_holds_while_the_store_grows(
    shop: Shop, keys: tuple[Path, Path], signature: Path
) -> None:
    assert verify_signature(shop.storage, shop.ledger, signature, keys[1]) == Signed(3, 12, 3)
    add_wave(shop, "d", 9)
    assert verify_signature(shop.storage, shop.ledger, signature, keys[1]) == Signed(3, 12, 4)


def test_the_library_s_own_command_verifies_it(
    shop: Shop, keys: tuple[Path, Path], signature: Path
) -> None:
    add_wave(shop, "d", 9)
    command = [sys.executable, "-m", "model_signing", "verify", "key", "--ignore_unsigned_files"]
    command += ["--signature", str(signature), "--public_key", str(keys[1])]
    done = subprocess.run([*command, shop.storage.uri], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shop.bundle("a").write_bytes(shop.bundle("b").read_bytes())
    done = subprocess.run([*command, shop.storage.uri], capture_output=True, text=True)
    assert done.returncode != 0


@pytest.mark.parametrize("what", ["store.json", "log", "data", "bundle"])
def test_a_changed_byte_of_any_signed_file_shows(
    shop: Shop, keys: tuple[Path, Path], signature: Path, what: str
) -> None:
    names = signed_files(shop.storage, shop.ledger, 3)
    prefix = {"log": "ledger/_delta_log", "data": "ledger/part", "bundle": "bundles"}.get(
        what, what
    )
    changed = [name for name in names if name.startswith(prefix)]
    assert changed
    for name in changed[:2]:
        path = shop.file(name)
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(IntegrityError, match="does not hold: Signature mismatch"):
            verify_signature(shop.storage, shop.ledger, signature, keys[1])
        path.write_bytes(whole)
    verify_signature(shop.storage, shop.ledger, signature, keys[1])


def test_a_key_with_a_password(shop: Shop, keys: tuple[Path, Path], tmp_path: Path) -> None:
    key = serialization.load_pem_private_key(keys[0].read_bytes(), None)
    locked, out = tmp_path / "locked.pem", tmp_path / "locked.sig"
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    locked.write_bytes(
        key.private_bytes(pem, form, serialization.BestAvailableEncryption(b"open sesame"))
    )
    sign_version(shop.storage, shop.ledger, locked, out, password="open sesame")
    verify_signature(shop.storage, shop.ledger, out, keys[1])
    for password in (None, "wrong"):
        with pytest.raises(ConfigError, match="is not a private key"):
            sign_version(shop.storage, shop.ledger, locked, out, password=password)


def test_another_key_does_not_verify_it(shop: Shop, signature: Path, tmp_path: Path) -> None:
    _, eve = make_keys(tmp_path, "eve")
    with pytest.raises(IntegrityError, match="does not hold: Key mismatch"):
        verify_signature(shop.storage, shop.ledger, signature, eve)


def test_a_signature_cannot_be_edited(shop: Shop, keys: tuple[Path, Path], signature: Path) -> None:
    """Nor put together of what two others say."""
    other = signature.with_name("v4.sig")
    add_wave(shop, "d", 9)
    sign_version(shop.storage, shop.ledger, keys[0], other)
    mixed, newer = (json.loads(path.read_text()) for path in (signature, other))
    mixed["dsseEnvelope"]["payload"] = newer["dsseEnvelope"]["payload"]
    signature.write_text(json.dumps(mixed))
    with pytest.raises(IntegrityError, match="it was made with another key, or changed"):
        verify_signature(shop.storage, shop.ledger, signature, keys[1])


def test_a_deleted_bundle_shows_and_an_old_version_may_be_signed(
    shop: Shop, keys: tuple[Path, Path], signature: Path, tmp_path: Path
) -> None:
    first = tmp_path / "v1.sig"
    sign_version(shop.storage, shop.ledger, keys[0], first, version=1)
    shop.ledger.settle(Revoke(["b-0", "b-1"]))
    plan = plan_collection(shop.storage, shop.ledger, Keep.for_days(NOW, 0))
    collect(shop.storage, shop.ledger, plan, About())
    with pytest.raises(IntegrityError, match=r"bundles/.* are not in the store any more"):
        verify_signature(shop.storage, shop.ledger, signature, keys[1])
    assert verify_signature(shop.storage, shop.ledger, first, keys[1]).version == 1


def test_a_forged_checkpoint_shows(
    shop: Shop, keys: tuple[Path, Path], signature: Path, tmp_path: Path
) -> None:
    """Delta Lake reads a checkpoint in place of the log before it; it is not signed itself."""
    forged = Storage(str(tmp_path / "forged"))
    for file in shop.storage.files(""):
        if not file.path.endswith("3.json"):  # the newest commit
            forged.put_new(file.path, shop.storage.read(file.path))
    add_wave(Shop(forged, open_ledger(forged), {}, shop.router), "eve", 9)
    open_table(forged).create_checkpoint()
    for file in forged.files("ledger"):
        shop.storage.put_new(file.path, forged.read(file.path))
    assert "eve-0" in open_ledger(shop.storage).snapshot(3).ids
    with pytest.raises(
        IntegrityError, match=r"version 3 reads .* which the signature does not cov"
    ):
        verify_signature(shop.storage, shop.ledger, signature, keys[1])


class Elsewhere(Storage):
    """Files that are read through the storage, as those of a bucket are."""

    is_local = False


def test_a_store_that_is_not_on_this_machine(
    shop: Shop, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    bucket, path = Elsewhere(shop.storage.uri), tmp_path / "bucket.sig"
    assert sign_version(bucket, shop.ledger, keys[0], path) == Signed(3, 12, 3)
    assert verify_signature(bucket, shop.ledger, path, keys[1]).version == 3
    shop.bundle("a").unlink()
    with pytest.raises(IntegrityError, match="is not in the store any more"):
        verify_signature(bucket, shop.ledger, path, keys[1])


def test_what_cannot_be_signed_or_is_no_signature_is_named(
    shop: Shop, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    nonsense = tmp_path / "nonsense"
    nonsense.write_text("{}")
    with pytest.raises(ConfigError, match="nonsense is not a private key"):
        sign_version(shop.storage, shop.ledger, nonsense, tmp_path / "out")
    with pytest.raises(NotFoundError, match="9 is not one of 0 to 3"):
        sign_version(shop.storage, shop.ledger, keys[0], tmp_path / "out", version=9)
    with pytest.raises(ConfigError, match="cannot be written"):
        sign_version(shop.storage, shop.ledger, keys[0], tmp_path / "no" / "folder" / "out")
    with pytest.raises(ConfigError, match="nonsense is not a public key"):
        verify_signature(shop.storage, shop.ledger, nonsense, nonsense)
    with pytest.raises(ConfigError, match="nonsense is not a signature of a store"):
        verify_signature(shop.storage, shop.ledger, nonsense, keys[1])
