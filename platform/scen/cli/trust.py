"""`sign`, and the implementation of `verify --signature` and `revoke --certificate`."""

import json as jsonlib
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from scen.cli.options import BaseOptions, Json, Store, Version, read_config, room
from scen.cli.output import line, say, write_json
from scen.errors import ConfigError

PASSWORD = "SCEN_KEY_PASSWORD"
app, _, command = room("Stores and bases", 6)


@command
def sign(
    key: Annotated[Path, Parameter(name="PRIVATE_KEY", help="PEM, ECDSA")],
    /,
    *,
    store: Store,
    out_file: Annotated[Path, Parameter(name="--out", metavar="FILE", help="the signature file")],
    version: Version = None,
    json: Json = False,
) -> None:
    """sign a version of a store with a private key

    Signs `store.json`, the ledger and the bundles of a version, in the format of
    OpenSSF model signing. The signature stays valid while the store grows, until
    `scen gc` deletes a bundle that it covers. The password of an encrypted key is
    read from SCEN_KEY_PASSWORD. Needs `pip install 'scen-platform[sign]'`.

    examples:
      openssl ecparam -name prime256v1 -genkey -noout -out key.pem
      openssl ec -in key.pem -pubout -out key.pub
      scen sign key.pem --store ./my-store --out v12.sig
      scen verify --store ./my-store --signature v12.sig --key key.pub
    """
    from scen.fs import Storage
    from scen.ledger.ledger import open_ledger
    from scen.ledger.sign import sign_version

    storage = Storage(store)
    password = os.environ.get(PASSWORD)
    signed = sign_version(
        storage, open_ledger(storage), key, out_file, version=version, password=password
    )
    if json:
        write_json(asdict(signed))
    else:
        line(f"version {signed.version} is signed, {signed.files} files: {out_file}")


def verify_signed(store: str, signature: Path, key: Path | None, *, is_json: bool) -> None:
    """Verify a signature with the signer's public key and print the result. Raises IntegrityError
    if it is not valid, ConfigError without a key."""
    from scen.fs import Storage
    from scen.ledger.ledger import open_ledger
    from scen.ledger.sign import verify_signature

    if key is None:
        raise ConfigError("--key: name the file of the signer's public key")
    storage = Storage(store)
    signed = verify_signature(storage, open_ledger(storage), signature, key)
    if is_json:
        write_json(asdict(signed))
        return
    later = signed.newest - signed.version
    more = f"; the {later} commits after it are not signed" if later else ""
    line(f"version {signed.version} is as it was signed, {signed.files} files{more}")


def write_certificate(
    store: str, edit_ids: Sequence[str], path: Path, base: BaseOptions | None
) -> None:
    """Write a certificate of revocation as JSON; with `base`, also compare the answers of the base
    and the newest version."""
    from scen.fs import Storage
    from scen.pipeline.certificate import certify
    from scen.snapshot.open import open_store

    storage = Storage(store)
    opened = None
    if base is not None:
        opened = open_store(storage, read_config(base=base.settings()).base, say)
    certificate = certify(storage, list(edit_ids), opened)
    try:
        path.write_text(jsonlib.dumps(certificate, ensure_ascii=False, indent=1) + "\n")
    except OSError as err:
        raise ConfigError(f"--certificate: {path} cannot be written ({err})") from err
    say(_summary(certificate, path))


def still_valid(store: str, edit_ids: Sequence[str]) -> list[str]:
    """The edit ids that are active, scheduled or unknown to the store."""
    from scen.fs import Storage
    from scen.ledger.ledger import open_ledger

    gone = open_ledger(Storage(store)).snapshot().state.gone
    return [i for i in edit_ids if i not in gone or gone[i].is_scheduled]


def _summary(certificate: dict[str, Any], path: Path) -> str:
    verdicts = {True: "erased", False: "not erased", None: "prompts were not run"}
    bundles = certificate["bundles"]
    kept = sum(not bundle["is_deleted"] for bundle in bundles)
    return (
        f"{path}: {verdicts[certificate['is_erased']]}; {kept} of {len(bundles)} bundles are still "
        f"there, and {len(certificate['text_remains_in'])} files of the store have the text"
    )
