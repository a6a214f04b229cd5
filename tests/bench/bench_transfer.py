"""Whether a profile holds for its base in another quantisation: routing alone, without experts.

Each line is the profile's router on one set of weights: the base's own, or its matrices quantised
again by gguf, on top of the quantisation that they have. Figures are in %: of published rephrases
and of questions in other ways of asking, those that reach their edit (`rephrases`, `asked`) or
another one (`wrong`); of near misses, tasks about the question, questions of the same kind whose
edit is absent and unrelated questions, those that reach any. `keys` is the mean relative difference
between raw keys of the edits' prompts and the base's own, `check` what `check_transfer` measures on
its few samples, and `adopted` whether the profile is taken over.

    PYTHONPATH=tests python tests/bench/bench_transfer.py              # minutes
    PYTHONPATH=tests python tests/bench/bench_transfer.py --base qwen.gguf --profile qwen.json
"""

import argparse
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from gguf import GGMLQuantizationType, dequantize, quantize
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench.bench_asking import Routing, read_edits
from bench.report import base_option, emit, new_parser
from scen.calibration.router_set import make_near_misses, question_templates
from scen.calibration.transfer import adopt_profile, check_transfer
from scen.data.read import read_prompts
from scen.evaluation.probes import Probe, asking_probes, edit_probes, locality_probes
from scen.model.base import Base, load_base
from scen.model.weights import MARKER
from scen.records import Edit
from scen.routing.keys import read_prompt_keys
from scen.samples import sample_path
from scen.snapshot.method import Profile, load_profile, shipped_profiles


def requantise(base: Base, kind: str, folder: Path) -> Path:
    """A copy of a base whose matrices went through a quantisation of gguf."""
    small = [path for path in base.folder.iterdir() if path.suffix != ".safetensors"]
    folder.mkdir()
    for path in small:
        if path.name != MARKER:
            shutil.copy(path, folder)
    weights: dict[str, Tensor] = {}
    for path in base.folder.glob("*.safetensors"):
        weights |= {name: _through(tensor, kind) for name, tensor in load_file(path).items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def _through(weight: Tensor, kind: str) -> Tensor:
    if weight.ndim < 2:  # norms and biases are not quantised
        return weight
    code = GGMLQuantizationType[kind]
    packed = quantize(weight.float().numpy(), code)
    return torch.from_numpy(dequantize(packed, code)).to(weight.dtype)


def make_probes(
    edits: Sequence[Edit], others: Sequence[Edit], args: argparse.Namespace
) -> list[Probe]:
    """What is asked about some edits; `others` are of their kind, and not in the bank."""
    templates, draw = question_templates([*edits, *others]), random.Random(0)
    probes = [p for p in edit_probes(edits) if p.source == "orig"]
    probes += asking_probes(edits, "0", args.asked)
    for edit in edits:
        near = make_near_misses(edit, templates, draw)
        probes += [Probe("near_miss", text, "near misses", edit.id) for text in near]
    probes += [Probe("locality", edit.prompt, "absent") for edit in others]
    return probes + locality_probes(read_prompts(sample_path("nq_locality.jsonl"), args.unrelated))


_NAMES = {"generality": "rephrases", "asking": "asked", "near_miss": "near", "task": "tasks"}


def figures(
    base: Base, profile: Profile, edits: Sequence[Edit], probes: Sequence[Probe]
) -> dict[str, float]:
    """Where the probes go, by kind."""
    routing = Routing(base, profile.router, edits)
    reached = routing.reached(routing.read(probes), len(probes))
    asked, own, wrong = Counter[str](), Counter[str](), Counter[str]()
    for probe, edit_id in zip(probes, reached, strict=True):
        name = _NAMES.get(probe.kind, "absent" if probe.source == "absent" else "unrelated")
        has_edit = probe.target is not None
        asked[name] += 1
        own[name] += edit_id is not None and (edit_id == probe.edit_id or not has_edit)
        wrong["wrong"] += has_edit and edit_id not in (None, probe.edit_id)
    shares = {name: round(100 * own[name] / asked[name], 2) for name in asked}
    return shares | {"wrong": wrong["wrong"], "questions": sum(asked.values())}


def parse() -> argparse.Namespace:
    """The command line."""
    parser = new_parser(__doc__)
    base_option(parser)
    add = parser.add_argument
    add("--profile", type=Path, default=shipped_profiles()[0], help="of the base (%(default)s)")
    add("--no-own", dest="own", action="store_false", help="leave out the base's own weights")
    add("--types", default="F16,Q8_0,Q5_0,Q4_0", help="of gguf (%(default)s)")
    add("--edits", type=int, default=200, help="in the bank, of ZsRE (%(default)s)")
    add("--asked", type=int, default=600, help="questions in other ways and tasks (%(default)s)")
    add("--unrelated", type=int, default=400, help="questions (%(default)s)")
    add("--dtype", default="auto", help="of the weights (%(default)s)")
    return parser.parse_args()


def main() -> None:
    """Print a line per set of weights."""
    args = parse()
    base, profile = load_base(args.base, dtype=args.dtype), load_profile(args.profile)
    template: Any = base.template.name
    edits = read_edits(str(sample_path("zsre_edits.jsonl")), [0, args.edits])
    others = read_edits(str(sample_path("zsre_edits.jsonl")), [200, 200 + min(200, args.edits)])
    probes = make_probes(edits, others, args)
    prompts, places = [edit.prompt for edit in edits], profile.router.encoder.places
    own_NKF = read_prompt_keys(base, places, prompts).float()
    if args.own:
        found = figures(base, profile, edits, probes)
        emit(weights="own", keys=0.0, **found, check=asdict(check_transfer(base, profile)))
    for kind in args.types.split(","):
        with tempfile.TemporaryDirectory() as scratch:
            folder = requantise(base, kind, Path(scratch) / kind)
            other = load_base(str(folder), template=template, dtype=args.dtype)
            key_NKF = read_prompt_keys(other, places, prompts).float()
            moved = (key_NKF - own_NKF).norm(dim=-1) / own_NKF.norm(dim=-1)
            found = figures(other, profile, edits, probes)
            is_adopted = adopt_profile(other, [profile]) is not None
            emit(weights=kind, keys=round(float(moved.mean()), 4), **found, adopted=is_adopted,
                 check=asdict(check_transfer(other, profile)))  # fmt: skip


if __name__ == "__main__":
    main()
