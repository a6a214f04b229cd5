"""The stream of `bench_scale`: edits of both samples and made ones, trained, committed and asked.

Everything is kept in a folder: the edits, the store, a line per wave, and the outcomes of each
part of the questions, so that a run that was stopped goes on where it was.
"""

import itertools
import json
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.report import emit
from scen.calibration.quick import SAMPLES
from scen.config import load_config
from scen.data import Validator, ingest
from scen.data.made import make_edits, write_edits
from scen.data.read import read_prompts
from scen.errors import NotFoundError
from scen.evaluation.metrics import Outcome
from scen.evaluation.probes import Probe, asking_probes, edit_probes, locality_probes
from scen.evaluation.run_eval import EvalLimits, encode_turns, run_eval
from scen.fs import Storage
from scen.model.base import Base
from scen.pipeline.apply import EditJob, apply_edits
from scen.pipeline.local import LocalParts
from scen.pipeline.plan import Wave
from scen.pipeline.runtime import Runtime
from scen.records import Edit, digest_json
from scen.routing.key_bank import Codes
from scen.routing.keys import KeyEncoder, read_prompt_spans
from scen.routing.neurons import KeyNeurons, NeuronBuffer, best_spans
from scen.samples import sample_path
from scen.snapshot.open import OpenStore, create_store, open_store

HELD_OUT = 100  # real edits of each sample that are never committed: their questions are absent
_REAL_SHARE = 0.25  # of the stream at most
_PART = 256  # questions whose outcomes are kept at a time
_UNRELATED = 1000
_NEUTRAL = "nq_neutral.jsonl"
_CHUNK = 1000  # prompts whose keys are read and compressed at a time


@dataclass(frozen=True)
class ScaleRun:
    """A run in a folder: so many edits on a base, in waves of `wave_size`; `sample` of them are
    asked at the end."""

    folder: Path
    base: str
    template: str
    edits: int
    wave_size: int
    sample: int

    @property
    def storage(self) -> Storage:
        """The store."""
        return Storage(str(self.folder / "store"))

    @cached_property
    def material(self) -> tuple[list[Edit], list[Edit]]:
        """The edits of the stream in order, and real and made ones that are never committed. No
        row on which the shipped profile was fitted is among them, nor any made from one."""
        names = {kind: f"{kind}_edits.jsonl" for kind in ("zsre", "counterfact")}
        fitted = {sample.name: range(sample.begin, sample.end) for sample in SAMPLES}
        real = {
            kind: [e for i, e in enumerate(_read(sample_path(name))) if i not in fitted[name]]
            for kind, name in names.items()
        }
        absent = [edit for edits in real.values() for edit in edits[-HELD_OUT:]]
        known = [edit for edits in real.values() for edit in edits[:-HELD_OUT]]
        random.Random(0).shuffle(known)
        known = known[: int(_REAL_SHARE * self.edits)]
        made = make_edits(real)
        stream = known + list(itertools.islice(made, self.edits - len(known)))
        random.Random(1).shuffle(stream)
        return stream, absent + list(itertools.islice(made, len(absent)))

    def apply(self) -> None:
        """Train and commit what is not committed yet. Rephrases and near misses stay out of the
        waves, which would ask them too; `ask` does."""
        path = self.folder / "edits.parquet"
        if not path.exists():
            bare = (replace(e, rephrases=(), near_misses=(), locality_prompts=())
                    for e in self.material[0])  # fmt: skip
            write_edits(bare, path)
        base = {"name": self.base, "template": self.template}
        evaluation = {"locality_limit": 8, "retention_limit": 8, "asking_share": 0}
        config = load_config(
            fixed={"base": base, "evaluation": evaluation, "waves": {"size": self.wave_size}}
        )
        watch = _Watch(self)
        job = EditJob(str(path), stream="scale", is_tracked=False)
        summary, _ = apply_edits(job, self.storage, config, Runtime(watch.parts))
        emit(bench="scale_applied", edits=self.edits, committed=summary.committed,
             known=summary.known, rejected=summary.rejected)  # fmt: skip

    def waves(self) -> list[dict[str, Any]]:
        """The lines of all waves so far."""
        path = self.folder / "waves.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def open(self) -> OpenStore:
        """The store and its base; a new store if there is none."""
        config = load_config(fixed={"base": {"name": self.base, "template": self.template}})
        try:
            return open_store(self.storage, config.base)
        except NotFoundError:
            return create_store(self.storage, config, read_prompts(sample_path(_NEUTRAL), 64))


class _Watch:
    """Writes a line per wave: edits so far, seconds since the last one, bytes on storage."""

    def __init__(self, run: ScaleRun) -> None:
        self.run, self.began = run, time.perf_counter()

    def parts(self, *fields: Any) -> LocalParts:
        """The usual parts, which tell of each commit."""
        watch = self

        class Watched(LocalParts):
            def commit(self, wave: Wave, trained: dict[str, Any], evaluated: dict[str, Any]) -> int:
                version = super().commit(wave, trained, evaluated)
                watch.tell(wave, trained)
                return version

        return Watched(*fields)

    def tell(self, wave: Wave, trained: dict[str, Any]) -> None:
        """One line, unless an earlier run told of the wave."""
        lines, count = self.run.waves(), len(wave.edits)
        now = time.perf_counter()
        done = count + (lines[-1]["edits"] if lines else 0)
        line = {
            "wave": wave.index,
            "edits": done,
            "seconds_per_edit": (now - self.began) / count,
            "train_seconds_per_edit": trained["seconds"] / count,
            "bundle_bytes_per_edit": trained["bytes_per_edit"],
            "ledger_bytes_per_edit": _size(self.run.folder / "store" / "ledger") / done,
            "store_bytes_per_edit": _size(self.run.folder / "store") / done,
        }
        self.began = now
        if any(known["wave"] == wave.index for known in lines):
            return
        with (self.run.folder / "waves.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")


def _read(path: Path) -> list[Edit]:
    return [edit for batch in ingest(path, Validator()) for edit in batch.edits]


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def questions(run: ScaleRun, base: Base, here: Sequence[Edit]) -> list[Probe]:
    """What is asked of these edits: an even sample of them in every way, near misses, questions
    whose edit is absent, unrelated ones. Locality probes name their group as source."""
    absent = run.material[1]
    step = max(1, len(here) // run.sample)
    sample = here[::step][: run.sample]
    probes = [replace_source(p, sample) for p in edit_probes(sample) if p.kind != "locality"]
    if base.template.name != "raw":
        probes += asking_probes(
            sample, "scale", limit=run.sample, has_roles=base.template.has_roles
        )
    made = {edit.id for edit in absent if (edit.source or "").startswith("made")}
    half = len(absent) // 2  # the real ones
    for edit in absent[: min(half, run.sample)] + absent[half : half + run.sample]:
        kind = "made" if edit.id in made else "real"
        texts = [edit.prompt, *(r.text for r in edit.rephrases[:1])]
        probes += [Probe("locality", text, f"edit absent, {kind}") for text in texts]
    unrelated = read_prompts(sample_path("nq_locality.jsonl"), min(_UNRELATED, 4 * run.sample))
    return probes + locality_probes(unrelated)


def replace_source(probe: Probe, edits: Sequence[Edit]) -> Probe:
    """The probe with `made` in its source if it is about a made edit."""
    is_made = (probe.edit_id or "").startswith("made-")
    return replace(probe, source=f"{probe.source}, {'made' if is_made else 'real'}")


def ask(run: ScaleRun, store: OpenStore) -> list[Outcome]:
    """The outcomes of all questions; parts that were asked before are read."""
    snapshot = store.ledger.snapshot()
    committed = set(snapshot.ids)
    here = [edit for edit in run.material[0] if edit.id in committed]
    probes = questions(run, store.base, here)
    digest = digest_json([[probe.prompt, probe.source] for probe in probes])
    folder, outcomes = run.folder / f"outcomes-{digest[:12]}", list[Outcome]()
    folder.mkdir(exist_ok=True)
    edited = None
    for number, begin in enumerate(range(0, len(probes), _PART)):
        path = folder / f"{number:05d}.json"
        if not path.exists():
            edited = edited or store.edited_model(snapshot)
            part = probes[begin : begin + _PART]
            found = run_eval(store.base, edited, snapshot.ids, part, EvalLimits(32, 64, 12))
            path.with_suffix(".part").write_text(json.dumps([asdict(o) for o in found]))
            path.with_suffix(".part").replace(path)
        rows = json.loads(path.read_text())
        outcomes += [Outcome(**row | {"probe": Probe(**row["probe"])}) for row in rows]
    return outcomes


def score(run: ScaleRun, store: OpenStore) -> None:
    """A line per group of questions, and one per tenth of the stream for the edits' prompts."""
    outcomes = ask(run, store)
    place = {edit_id: i for i, edit_id in enumerate(store.ledger.snapshot().ids)}
    groups: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        probe = outcome.probe
        groups.setdefault((probe.kind, probe.source), []).append(outcome)
        if probe.kind == "reliability":
            tenth = 10 * place[probe.edit_id or ""] // len(place)
            groups.setdefault(("age", f"tenth {tenth + 1} of the stream"), []).append(outcome)
    for (kind, source), found in sorted(groups.items()):
        emit(bench="scale_score", edits=len(place), kind=kind, source=source, asked=len(found),
             **_shares(kind, found))  # fmt: skip


def _shares(kind: str, outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Percents: exact answers where there is a target, else answers that stay and routes."""

    def percent(hits: Iterator[bool]) -> float:
        found = list(hits)
        return round(100 * sum(found) / len(found), 2) if found else 100.0

    other = percent(o.routed_to not in (None, o.probe.edit_id) for o in outcomes)
    if outcomes[0].probe.target is not None:
        own = percent(o.routed_to == o.probe.edit_id for o in outcomes)
        return {"exact": percent(o.is_exact for o in outcomes), "own": own, "another": other}
    return {
        "unchanged": percent(o.before == o.after for o in outcomes),
        "fires": percent(o.routed_to is not None for o in outcomes),
        "another": other,
        "unrouted_identical": percent(bool(o.identical) for o in outcomes if o.routed_to is None),
    }


def read_codes(
    base: Base, encoder: KeyEncoder, edits: Sequence[Edit]
) -> tuple[Tensor, Sequence[str]]:
    """code_EKC of the edits' prompts, and these in the form that is routed."""
    encoded = [base.template.encode_prompt(edit.prompt) for edit in edits]
    spans = read_prompt_spans(base, encoder.places, encoded)
    whole = spans.take((spans.span_M == 0).nonzero().squeeze(1))
    return encoder(whole.key_MKF.float()), whole.texts


def route_by_size(run: ScaleRun, store: OpenStore, sizes: Sequence[int]) -> list[dict[str, float]]:
    """Percents by routing alone among the first so many edits of the stream, trained or not;
    printed, and returned: `own` and `another` of rephrases of those edits, false activation of the
    other questions."""
    router, stream = store.loader.router, run.material[0]
    assert router is not None
    probes = questions(run, store.base, stream)
    place = {edit.id: i for i, edit in enumerate(stream)}
    encoder = router.encoder
    codes, texts = list[Tensor](), list[str]()
    for begin in range(0, len(stream), _CHUNK):
        code_EKC, new = read_codes(store.base, encoder, stream[begin : begin + _CHUNK])
        codes.append(code_EKC)
        texts += new
    bank = NeuronBuffer(router, len(stream))
    bank.append(Codes.of(torch.cat(codes), encoder.widths), texts)
    keys = read_prompt_spans(
        store.base, encoder.places, [encode_turns(store.base, probe) for probe in probes]
    )
    keys = replace(keys, key_MKF=keys.key_MKF.float())
    lines = []
    for size in (min(size, len(stream)) for size in sizes):
        neurons = KeyNeurons.of_rows(bank, torch.arange(size))
        began = time.process_time()
        best = best_spans(neurons.choose_spans(keys), keys.row_M, len(probes))
        seconds = (time.process_time() - began) / len(probes)
        is_routed = best.score_B2[:, 0] > router.threshold
        reached = torch.where(is_routed, best.index_B2[:, 0], -1).tolist()
        groups: dict[str, list[float]] = {}
        for probe, index in zip(probes, reached, strict=True):
            own = place.get(probe.edit_id or "", -1)
            if probe.kind == "generality" and own < size:
                groups.setdefault("own", []).append(index == own)
                groups.setdefault("another", []).append(index not in (own, -1))
            if probe.kind == "locality":
                name = probe.source.partition(",")[0].replace("file", "unrelated")
                groups.setdefault(name, []).append(index >= 0)
            if probe.kind == "near_miss" and own < size:
                groups.setdefault("near miss", []).append(index >= 0)
        shares = {name: round(100 * sum(g) / len(g), 3) for name, g in groups.items()}
        lines.append({"edits": float(size), "route_seconds": seconds, **shares})
        emit(bench="scale_routing", **lines[-1])
    return lines
