"""`scen base fetch`, `scen base info`, `scen base list` and `scen base check`."""

import argparse
import json

from rich.table import Table

from scen.cli.output import out, say, write_json
from scen.cli.render import facts_table
from scen.errors import BaseError
from scen.model.base import load_base, resolve_base
from scen.model.check import BaseCheck, check_base, list_bases
from scen.model.fetch import EMBEDDED_NAME
from scen.snapshot.base_profile import shipped_profiles

_STEPS = {
    "train": "train",
    "train_paper": "train, method scen",
    "calibrate": "calibrate",
    "serve": "serve",
}


def run(args: argparse.Namespace) -> None:
    """Prepare a base, or show what it is."""
    actions = {"fetch": _fetch, "info": _info, "list": _list, "check": _check}
    actions[args.action](args)


def _fetch(args: argparse.Namespace) -> None:
    name = args.base or EMBEDDED_NAME
    folder = str(resolve_base(name, say))
    if args.json:
        write_json({"name": name, "folder": folder})
    else:
        out.print(f"{name} is ready in {folder}", soft_wrap=True)


def _info(args: argparse.Namespace) -> None:
    base = load_base(
        args.base or EMBEDDED_NAME,
        template=args.template or "auto",
        dtype=args.dtype or "auto",
        device=args.device or "auto",
        say=say,
    )
    facts = base.describe() | {"folder": str(base.folder)}
    if args.json:
        write_json(facts)
    else:
        out.print(facts_table(facts))


def _list(args: argparse.Namespace) -> None:
    profiles = {json.loads(p.read_text())["base"]["name"]: p.stem for p in shipped_profiles()}
    bases = list_bases()
    if args.json:
        rows = [
            {
                "name": base.name,
                "architecture": base.architecture,
                "bytes": base.num_bytes,
                "profile": profiles.get(base.name),
                "folder": str(base.folder),
            }
            for base in bases
        ]
        write_json({"bases": rows})
        return
    table = Table(box=None)
    for column in ("base", "architecture", "size", "profile", "folder"):
        table.add_column(column, overflow="fold")
    for base in bases:
        profile = profiles.get(base.name, "none ships")
        size, folder = _gigabytes(base.num_bytes), str(base.folder)
        table.add_row(base.name, base.architecture, size, profile, folder)
    out.print(table)


def _check(args: argparse.Namespace) -> None:
    check = check_base(args.base)
    if args.json:
        write_json(check.to_dict())
    else:
        _print_check(check)
    if check.trouble is not None:
        raise BaseError(f"base: {check.name} cannot be edited: {check.trouble}")


def _print_check(check: BaseCheck) -> None:
    facts: dict[str, object] = {"base": check.name, "architecture": check.architecture}
    if check.is_editable:
        facts |= {
            "can be edited": "yes" if check.is_tested else "yes; this architecture is not tested",
            "layers": check.layers,
            "hidden, inner size": f"{check.hidden_size}, {check.intermediate_size}",
            "parameters": f"{check.parameters:,}",
        }
    if check.convert is not None:
        facts["memory to convert from GGUF, once"] = _gigabytes(check.convert)
    out.print(facts_table(facts))
    if not check.is_editable:
        return
    table = Table(box=None)
    for column in ("memory (estimate)", *(memory.dtype for memory in check.memory)):
        table.add_column(column)
    for step, title in {"weights": "weights alone", **_STEPS}.items():
        table.add_row(title, *(_gigabytes(getattr(m, step)) for m in check.memory))
    out.print(table)
    for device in check.devices:
        short = [title for step, title in _STEPS.items() if not device.fits[step]]
        verdict = f"too small to {', '.join(short)}" if short else "fits all steps"
        out.print(f"{device.name}: {_gigabytes(device.num_bytes)}, {device.dtype}: {verdict}")


def _gigabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB"
