"""`scen calibrate`: edits of a kind and a base become a profile."""

import argparse
import itertools
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from scen.base.embedded import EMBEDDED_NAME
from scen.base.load import Base, load_base
from scen.calibration.calibrate import Calibration, calibrate
from scen.calibration.fit_router import RouterPlan
from scen.cli.calibration_tables import calibration_tables
from scen.cli.output import out, say, show_warnings, step_progress, write_json
from scen.errors import ConfigError
from scen.ingest import Validator, ingest
from scen.ingest.location import locate_input
from scen.ingest.prompts import read_prompts
from scen.records import Edit, digest_json
from scen.samples import sample_path
from scen.snapshot.base_profile import save_profile
from scen.tracking.calibration_record import CalibrationRecord
from scen.tracking.calibration_run import track_calibration
from scen.tracking.tracking_uri import default_tracking_uri, ui_command


def run(args: argparse.Namespace) -> None:
    """Calibrate a base and write its profile."""
    show_warnings()
    path = profile_path(args.out)
    for name in (*args.edits, *([args.locality] if args.locality else [])):
        locate_input(name)  # before a base is loaded for nothing
    name = args.base or EMBEDDED_NAME
    say(f"loading base {name}")
    base = load_base(
        name,
        template=args.template or "auto",
        dtype=args.dtype or "auto",
        device=args.device or "auto",
        say=say,
    )
    edits, about = _read_edits(args)
    plan = RouterPlan(searches_places=args.search_places)
    if args.max_false_activation is not None:
        plan = replace(plan, bound=args.max_false_activation)
    unrelated = read_prompts(args.locality or sample_path("nq_neutral.jsonl"))
    with step_progress() as bars:
        found = calibrate(base, edits, unrelated, about, plan, bars)
    save_profile(found.profile, path)
    tracking_uri = None if args.no_tracking else default_tracking_uri(None)
    if tracking_uri:
        track_calibration(tracking_uri, _record(base, found, about, path))
    _show(found, path, tracking_uri, args.json)


def profile_path(text: str) -> Path:
    """Where --out wants the profile, with its ending. Raises ConfigError for another ending."""
    path = Path(text)
    if path.suffix not in ("", ".json"):
        raise ConfigError(f"--out: {text} must end with .json")
    return path.with_suffix(".json")


def _read_edits(args: argparse.Namespace) -> tuple[list[list[Edit]], dict[str, Any]]:
    """The edits of each file, and what the profile says of them: names, no places."""
    found: list[list[Edit]] = []
    about = []
    for file in args.edits:
        batches = ingest(file, Validator())
        valid = itertools.chain.from_iterable(batch.edits for batch in batches)
        stop = None if args.limit is None else args.skip + args.limit
        some = list(itertools.islice(valid, args.skip, stop))
        say(f"{len(some)} edits of {file}")
        digest = digest_json([edit.digest for edit in some])
        about.append({"file": Path(file).name, "edits": len(some), "sha256": digest})
        found.append(some)
    return found, {"edits": about}


def _record(base: Base, found: Calibration, about: dict[str, Any], path: Path) -> CalibrationRecord:
    expert, figures = found.profile.expert, found.figures
    top1: dict[str, dict[int, float]] = {}
    for place, value in found.places.top1.items() if found.places else ():
        top1.setdefault(place.kind, {})[place.layer] = value
    metrics = figures.metrics() | {
        f"calibration/expert_{name}": value
        for name, value in found.profile.calibration["expert"].items()
    }
    sizes = {f"edits.{source['file']}": source["edits"] for source in about["edits"]}
    return CalibrationRecord(
        base_name=base.name,
        params={f"expert.{name}": value for name, value in expert.items()}
        | {"router.places": " ".join(p.name for p in found.profile.router.encoder.places)}
        | {"router.max_false_activation": str(figures.bound)}
        | sizes,
        metrics=metrics,
        curve=figures.curve,
        bound=figures.bound,
        top1_by_depth=top1,
        places=[
            {"keys": " ".join(p.name for p in step.places), "found": step.recall}
            for step in (found.places.steps if found.places else ())
        ],
        trials=[asdict(trial) for trial in found.trials],
        files=[path, path.with_suffix(".safetensors")],
    )


def _show(found: Calibration, path: Path, tracking_uri: str | None, is_json: bool) -> None:
    profile = found.profile
    if is_json:
        write_json(
            {
                "profile": str(path),
                "expert": dict(profile.expert),
                "places": [place.name for place in profile.router.encoder.places],
                "calibration": dict(profile.calibration),
                "tracking_uri": tracking_uri,
            }
        )
        return
    for table in calibration_tables(found):
        out.print(table)
    expert = ", ".join(f"{name} {value:g}" for name, value in profile.expert.items())
    out.print(f"router     {profile.router.describe()}", soft_wrap=True)
    out.print(f"expert     {expert}", soft_wrap=True)
    out.print(f"profile    {path}  (scen edit ... --profile {path})", soft_wrap=True)
    if tracking_uri:
        out.print(f"MLflow     {ui_command(tracking_uri)}", soft_wrap=True)
