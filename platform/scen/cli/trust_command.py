"""`scen sign`, `scen verify --signature` and `scen revoke --certificate`."""

import argparse
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scen.cli.output import out, say, write_json
from scen.cli.parser_trust import PASSWORD
from scen.cli.settings import read_config
from scen.errors import ConfigError
from scen.fs import Storage
from scen.ledger.ledger import open_ledger
from scen.ledger.sign import sign_version, verify_signature


def run(args: argparse.Namespace) -> None:
    """`scen sign`: write the signature. Raises ScenError."""
    storage = Storage(args.store)
    signed = sign_version(
        storage,
        open_ledger(storage),
        args.key,
        args.out,
        version=args.version,
        password=os.environ.get(PASSWORD),
    )
    if args.json:
        write_json(asdict(signed))
    else:
        out.print(f"version {signed.version} is signed, {signed.files} files: {args.out}")


def verify(args: argparse.Namespace) -> None:
    """`scen verify --signature`: check it. Raises IntegrityError where it does not hold."""
    if args.key is None:
        raise ConfigError("--key: name the file of the signer's public key")
    storage = Storage(args.store)
    signed = verify_signature(storage, open_ledger(storage), args.signature, args.key)
    if args.json:
        write_json(asdict(signed))
        return
    later = signed.newest - signed.version
    more = f"; the {later} commits after it are not signed" if later else ""
    out.print(f"version {signed.version} is as it was signed, {signed.files} files{more}")


def write_certificate(args: argparse.Namespace) -> None:
    """`scen revoke --certificate`, after the revocation: run the prompts, write the file."""
    from scen.pipeline.certificate import certify  # imports torch, which a plain revoke need not
    from scen.snapshot.open import open_store

    storage = Storage(args.store)
    store = None if args.no_base else open_store(storage, read_config(args).base, say)
    found = certify(storage, args.edit_ids, store)
    try:
        args.certificate.write_text(json.dumps(found, ensure_ascii=False, indent=1) + "\n")
    except OSError as err:
        raise ConfigError(f"--certificate: {args.certificate} cannot be written ({err})") from err
    say(_summary(found, args.certificate))


def still_valid(args: argparse.Namespace) -> list[str]:
    """The edits of the arguments that are active or scheduled, or unknown to the store."""
    state = open_ledger(Storage(args.store)).snapshot().state
    return [
        name for name in args.edit_ids if name not in state.gone or state.gone[name].is_scheduled
    ]


def _summary(found: dict[str, Any], path: Path) -> str:
    words = {True: "erased", False: "not erased", None: "prompts were not run"}
    kept = sum(not bundle["is_deleted"] for bundle in found["bundles"])
    return (
        f"{path}: {words[found['is_erased']]}; {kept} of {len(found['bundles'])} bundles are still "
        f"there, and {len(found['text_remains_in'])} files of the store have the text"
    )
