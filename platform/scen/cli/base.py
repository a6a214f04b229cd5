"""`scen base`: fetch, show, list or check base models; `scen samples`: make edits; `scen sign`, and
the implementation of `verify --signature` and `revoke --certificate`."""

import json as jsonlib
import os
from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from scen.cli.options import BaseOptions, Json, Store, Version, between, read_config, room
from scen.cli.output import facts_table, line, make_table, out, say, write_json
from scen.errors import ConfigError

if TYPE_CHECKING:
    from scen.model.base import Base
    from scen.model.check import BaseCheck
    from scen.records import Edit

PASSWORD = "SCEN_KEY_PASSWORD"
EMBEDDED = "smollm2-135m-instruct"
_STEPS = {
    "train": "train",
    "train_paper": "train, method scen",
    "calibrate": "calibrate",
    "serve": "serve",
}
app, group, command = room("Stores and bases", 6)
base_app = App(name="base", help="fetch, show, list or check base models", group=group)
app.command(base_app)
samples_app = App(name="samples", help="make edits like those of the samples", group=group)
app.command(samples_app)


@base_app.command
def fetch(*, base: BaseOptions | None = None, json: Json = False) -> None:
    """download and prepare a base, so that the next start takes seconds"""
    from scen.model.base import pick_device, pick_dtype, resolve_base

    options = base or BaseOptions()
    name, loading = options.base or EMBEDDED, options.loading
    dtype = pick_dtype(loading.dtype or "auto", pick_device(loading.device or "auto"))
    folder = str(resolve_base(name, say, dtype))
    if json:
        write_json({"name": name, "folder": folder})
    else:
        line(f"{name} is ready in {folder}")


@base_app.command
def info(*, base: BaseOptions | None = None, json: Json = False) -> None:
    """size, type, template and fingerprint of a base"""
    loaded = load(base or BaseOptions())
    facts = loaded.describe() | {"folder": str(loaded.folder)}
    if json:
        write_json(facts)
    else:
        out.print(facts_table(facts))


@base_app.command(name="list")
def list_(*, json: Json = False) -> None:
    """bases on this machine, with architecture, size and profile"""
    from scen.model.check import list_bases
    from scen.snapshot.method import profiled_bases

    profiles = profiled_bases()
    rows = [
        {
            "name": base.name,
            "architecture": base.architecture,
            "bytes": base.num_bytes,
            "profile": profiles.get(base.name),
            "folder": str(base.folder),
        }
        for base in list_bases()
    ]
    if json:
        write_json({"bases": rows})
        return
    cells = (
        (
            str(row["name"]),
            str(row["architecture"]),
            _gigabytes(int(str(row["bytes"]))),
            str(row["profile"] or "none"),
            str(row["folder"]),
        )
        for row in rows
    )
    out.print(make_table(("base", "architecture", "size", "profile", "folder"), cells))


@base_app.command
def check(
    name: Annotated[
        str, Parameter(name="BASE", help="a hub id, a folder with config.json or a .gguf file")
    ],
    /,
    *,
    json: Json = False,
) -> None:
    """check if a base can be edited and how much memory it needs, from its configuration

    Downloads at most config.json. Memory is estimated for training, calibration
    and serving, per number type, and compared with this machine's devices.

    examples:
      scen base check meta-llama/Llama-2-7b-chat-hf
      scen base check ./my-model
      scen base check qwen2.5-1.5b-instruct-q8_0.gguf
    """
    from scen.errors import BaseError
    from scen.model.check import check_base

    checked = check_base(name)
    if json:
        write_json(checked.to_dict())
    else:
        _print_check(checked)
    if checked.trouble is not None:
        raise BaseError(f"base: {checked.name} cannot be edited: {checked.trouble}")


@samples_app.command
def make(
    *,
    out: Annotated[Path, Parameter(metavar="FILE", help="a .jsonl or .parquet file to write")],
    edits: Annotated[int, between(1), Parameter(metavar="N", help="number of edits")] = 10_000,
    like: Annotated[
        tuple[str, ...],
        Parameter(metavar="FILE", help="edits to imitate, or zsre or counterfact (both samples)"),
    ] = (),
    seed: Annotated[int, Parameter(metavar="N", help="other edits for another seed")] = 0,
    json: Json = False,
) -> None:
    """made edits of the kinds of real ones, to size a deployment or to test it

    Recombined subjects in the wordings of real edits, with rephrases and near
    misses. No two have the same subject and relation. The same arguments give
    the same file.

    examples:
      scen samples make --edits 100000 --out made.parquet
      scen samples make --edits 1000 --like mine.jsonl --out like-mine.jsonl
    """
    from scen.data.made import make_edits, write_edits

    kinds = {source: _read_edits(source) for source in like or ("zsre", "counterfact")}
    written = write_edits(islice(make_edits(kinds, seed), edits), out)
    if json:
        write_json({"edits": written, "file": str(out), "bytes": out.stat().st_size})
    else:
        line(f"{written:,} made edits are in {out}; apply them with: scen edit {out} --store URI")


def _read_edits(source: str) -> "list[Edit]":
    """The valid edits of a file, or of the sample zsre or counterfact."""
    from scen.data import Validator, ingest
    from scen.samples import sample_names, sample_path

    name = f"{source}_edits.jsonl"
    path = sample_path(name) if name in sample_names() else source
    return [edit for batch in ingest(path, Validator()) for edit in batch.edits]


def load(options: BaseOptions) -> "Base":
    """Load the base of the options, or the embedded one. Raises BaseError."""
    from scen.model.base import load_base

    loading = options.loading
    return load_base(
        options.base or EMBEDDED,
        template=loading.template or "auto",
        dtype=loading.dtype or "auto",
        device=loading.device or "auto",
        say=say,
    )


def _print_check(checked: "BaseCheck") -> None:
    facts: dict[str, object] = {"base": checked.name, "architecture": checked.architecture}
    if checked.is_editable:
        facts |= {
            "can be edited": "yes" if checked.is_tested else "yes; this architecture is not tested",
            "layers": checked.layers,
            "hidden, inner size": f"{checked.hidden_size}, {checked.intermediate_size}",
            "parameters": f"{checked.parameters:,}",
        }
    if checked.convert is not None:
        facts["memory to convert from GGUF, once"] = _gigabytes(checked.convert)
    out.print(facts_table(facts))
    if not checked.is_editable:
        return
    heads = ("memory (estimate)", *(memory.dtype for memory in checked.memory))
    rows = [
        (title, *(_gigabytes(getattr(memory, step)) for memory in checked.memory))
        for step, title in {"weights": "weights alone", **_STEPS}.items()
    ]
    out.print(make_table(heads, rows))
    for device in checked.devices:
        short = [title for step, title in _STEPS.items() if not device.fits[step]]
        verdict = f"too small to {', '.join(short)}" if short else "fits all steps"
        line(f"{device.name}: {_gigabytes(device.num_bytes)}, {device.dtype}: {verdict}")


def _gigabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB"


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
