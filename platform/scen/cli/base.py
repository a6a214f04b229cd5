"""`scen base`: fetch, show, list or check base models; `scen samples`: make edits."""

import json as jsonlib
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from scen.cli.options import BaseOptions, Json, between, room
from scen.cli.output import facts_table, line, make_table, out, say, write_json

if TYPE_CHECKING:
    from scen.model.base import Base
    from scen.model.check import BaseCheck
    from scen.records import Edit

EMBEDDED = "smollm2-135m-instruct"
_STEPS = {
    "train": "train",
    "train_paper": "train, method scen",
    "calibrate": "calibrate",
    "serve": "serve",
}
app, group, _ = room("Stores and bases", 6)
base_app = App(name="base", help="fetch, show, list or check base models", group=group)
app.command(base_app)
samples_app = App(name="samples", help="make edits like those of the samples", group=group)
app.command(samples_app)


@base_app.command
def fetch(*, base: BaseOptions | None = None, json: Json = False) -> None:
    """download and prepare a base, so that the next start takes seconds"""
    from scen.model.base import resolve_base

    name = (base or BaseOptions()).base or EMBEDDED
    folder = str(resolve_base(name, say))
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
    """bases on this machine, with architecture, size and shipped profile"""
    from scen.model.check import list_bases
    from scen.snapshot.method import shipped_profiles

    profiles = {jsonlib.loads(p.read_text())["base"]["name"]: p.stem for p in shipped_profiles()}
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
