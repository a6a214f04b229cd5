"""Signatures over one version of a store, in the format of OpenSSF model signing (OMS).

A signature covers `store.json`, the log and data of the ledger up to the version, and the bundles
that the version needs. These files never change, so a signature stays valid while the store grows.
Keys are read from files (PEM, ECDSA on P-256, P-384 or P-521); no network is used.
`model_signing verify key --ignore_unsigned_files` checks the same file without this platform.
"""

import base64
import importlib
import json
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scen.errors import ConfigError, IntegrityError, NotFoundError
from scen.fs import Storage
from scen.ledger.bundles import bundle_path, log_paths, read_log_file
from scen.ledger.ledger import Ledger
from scen.ledger.manifest import MANIFEST_PATH
from scen.ledger.table import open_table

_KEYS = "PEM, ECDSA on P-256, P-384 or P-521"
_INSTALL = "pip install 'scen-platform[sign]' installs the signing library"


@dataclass(frozen=True, slots=True)
class Signed:
    """What a signature covers: a version of the ledger, with this number of files. `newest` is the
    current version of the ledger; commits after `version` are not signed."""

    version: int
    files: int
    newest: int


def signed_files(storage: Storage, ledger: Ledger, version: int) -> list[str]:
    """The paths that a signature of a version covers. Raises NotFoundError for an unknown
    version, IntegrityError if its log is damaged or incomplete."""
    snapshot = ledger.snapshot(version)
    logs = {v: path for v, path in log_paths(storage).items() if v <= version}
    if set(logs) != set(range(version + 1)):
        raise IntegrityError(
            f"ledger: log files up to version {version} are missing; `scen verify` names them"
        )
    data = {name for v, path in logs.items() for name in read_log_file(storage, v, path).adds}
    needed = [*snapshot.entries, *snapshot.state.scheduled]
    routers = ledger.manifest.artifacts_at(snapshot.state).values()
    bundles = {entry.bundle for entry in needed} | set(routers)
    return sorted({MANIFEST_PATH, *logs.values(), *data, *map(bundle_path, bundles)})


def sign_version(
    storage: Storage,
    ledger: Ledger,
    private_key: Path,
    signature: Path,
    *,
    version: int | None = None,
    password: str | None = None,
) -> Signed:
    """Sign a version (None: the newest) and write the signature, a Sigstore bundle in JSON. Raises
    ConfigError for a key or a file that cannot be used, and what `signed_files` raises."""
    hashing, signing = _library("hashing"), _library("signing")
    newest = ledger.version()
    version = newest if version is None else version
    paths = signed_files(storage, ledger, version)

    class StoreFiles(hashing.Config):  # type: ignore[misc, name-defined]
        """Hashes only the files of the version."""

        def hash(self, model_path: Path, **_: object) -> object:
            return super().hash(model_path, files_to_hash=[model_path / path for path in paths])

    try:
        config = signing.Config().use_elliptic_key_signer(
            private_key=private_key, password=None if password is None else password.encode()
        )
    except (OSError, ValueError, TypeError, AttributeError) as err:
        raise ConfigError(f"key: {private_key} is not a private key ({_KEYS}): {err}") from err
    with _as_folder(storage, paths) as folder:
        try:
            config.set_hashing_config(StoreFiles()).sign(folder, signature)
        except OSError as err:
            raise ConfigError(f"signature: {signature} cannot be written ({err})") from err
    return Signed(version, len(paths), newest)


def verify_signature(storage: Storage, ledger: Ledger, signature: Path, public_key: Path) -> Signed:
    """Check a signature against the current store. Raises ConfigError for an unusable key;
    IntegrityError if the signature was made with another key, a signed file is missing or
    changed, or the ledger reads files that are not signed."""
    verifying = _library("verifying")
    try:
        config = verifying.Config().use_elliptic_key_verifier(public_key=public_key)
    except (OSError, ValueError, AttributeError) as err:
        raise ConfigError(f"key: {public_key} is not a public key ({_KEYS}): {err}") from err
    paths = _claimed_files(signature)
    with _as_folder(storage, paths) as folder:
        try:
            config.set_ignore_unsigned_files(True).verify(folder, signature)
        except Exception as err:  # ValueError of the library, InvalidSignature of cryptography
            what = str(err) or "it was made with another key, or changed"
            raise IntegrityError(f"signature: {signature} does not hold: {what}") from err
    version = max(v for v, path in log_paths(storage).items() if path in paths)
    _require_signed(storage, ledger, version, paths)
    return Signed(version, len(paths), ledger.version())


def _require_signed(storage: Storage, ledger: Ledger, version: int, paths: list[str]) -> None:
    """Raises IntegrityError if the ledger reads other files at a version than those signed. Delta
    Lake may start from a checkpoint, which is not signed: it must reference the signed data."""
    read = {"/".join(uri.split("/")[-2:]) for uri in open_table(storage, version).file_uris()}
    unsigned = sorted({*read, *signed_files(storage, ledger, version)} - set(paths))
    if unsigned:
        raise IntegrityError(
            f"signature: version {version} reads {unsigned[:3]}, which the signature does not cover"
        )


def _claimed_files(signature: Path) -> list[str]:
    """The paths that a signature names; not verified."""
    try:
        envelope = json.loads(signature.read_text())["dsseEnvelope"]
        statement = json.loads(base64.b64decode(envelope["payload"]))
        names = [str(resource["name"]) for resource in statement["predicate"]["resources"]]
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise ConfigError(f"signature: {signature} is not a signature of a store ({err})") from err
    if not any(name.endswith(".json") and "/_delta_log/" in name for name in names):
        raise ConfigError(f"signature: {signature} is not of a store, it names no ledger")
    return names


@contextmanager
def _as_folder(storage: Storage, paths: Iterable[str]) -> Iterator[Path]:
    """A folder with these files of a store: that of a local store, else a temporary copy."""
    if storage.is_local:
        missing = [path for path in paths if not storage.exists(path)]
        if missing:
            raise IntegrityError(f"signature: {missing[:3]} are not in the store any more")
        yield storage.local_path
        return
    with tempfile.TemporaryDirectory() as name:
        for path in paths:
            place = Path(name) / "store" / path
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                place.write_bytes(storage.read(path))
            except NotFoundError as err:
                raise IntegrityError(f"signature: {path} is not in the store any more") from err
        yield Path(name) / "store"


def _library(module: str) -> Any:
    """A module of model_signing, which is optional and takes seconds to import; untyped, because
    some of its annotations are wrong. Raises ConfigError if it is not installed."""
    try:
        return importlib.import_module(f"model_signing.{module}")
    except ImportError as err:
        raise ConfigError(f"sign: {_INSTALL} ({err})") from err
