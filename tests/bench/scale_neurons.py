"""The large stores of `bench_scale`: up to a million neurons, experts of a shared row.

The first `prompts` neurons have the keys of real and made prompts, read from the base; those above
are mixes of two of them (view by view, weight drawn between 0.3 and 0.7). Each edit is a row of the
ledger and of a bundle with keys and text on storage; one expert serves all of them. A store grows
from size to size. The rows are kept between runs, in the folder.
"""

import resource
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import normalize

from bench.report import emit, timed
from bench.scale_stream import ScaleRun, read_codes
from scen.config import load_config
from scen.data.read import read_prompts
from scen.fs import Storage
from scen.ledger.actions import Revoke, WaveCommit
from scen.ledger.tensors import save_bundle
from scen.model.base import Base
from scen.model.keys import SpanKeys
from scen.records import Edit
from scen.routing.key_bank import Codes
from scen.routing.keys import KeyEncoder, pack_texts, read_prompt_spans, unpack_texts
from scen.routing.neurons import KeyNeurons, best_spans
from scen.samples import sample_path
from scen.snapshot.load import Place
from scen.snapshot.open import OpenStore, create_store, open_on
from scen_serve.engine.caches import Bundle, HostExpertCache
from scen_serve.engine.snapshots import SnapshotReader

WAVE = 1000
NEW = 64
REPEATS = 5
_ROUTED = 200  # prompts that are timed one by one


@dataclass(frozen=True)
class RealKeys:
    """Compact keys of real prompts, their texts, and how many there are; `asked` are the keys of
    paraphrases of the first of them, and of questions whose edit is absent."""

    code_NKC: Tensor
    texts: Sequence[str]
    paraphrases: SpanKeys
    absent: SpanKeys


class SharedExpert(HostExpertCache):
    """Bundles without experts: all edits share one."""

    def __init__(self, storage: Storage, expert: Bundle) -> None:
        super().__init__(storage, (), 0)
        self._expert = expert

    def find(self, place: Place) -> Bundle:
        return self._expert


def read_real_keys(run: ScaleRun, store: OpenStore, prompts: int) -> RealKeys:
    """The keys of so many prompts of the stream; those of each thousand are read once."""
    stream, absent = run.material
    edits, router = stream[:prompts], store.loader.router
    assert router is not None
    encoder, codes, texts = router.encoder, list[Tensor](), list[str]()
    for begin in range(0, len(edits), WAVE):
        path = run.folder / f"keys-{begin:07d}.safetensors"
        if not path.exists():
            code_EKC, new = read_codes(store.base, encoder, edits[begin : begin + WAVE])
            parts = {"code": code_EKC, "text": pack_texts(new)}
            save_file(parts, path.with_suffix(".part"))
            path.with_suffix(".part").replace(path)
        parts = load_file(path)
        codes.append(parts["code"])
        texts += unpack_texts(parts["text"])
    asked = [e.rephrases[0].text if e.rephrases else e.prompt for e in edits[:_ROUTED]]
    strange = [edit.prompt for edit in absent]
    paraphrases, absent_keys = (_read(store.base, encoder, some) for some in (asked, strange))
    return RealKeys(torch.cat(codes), texts, paraphrases, absent_keys)


def _read(base: Base, encoder: KeyEncoder, texts: Sequence[str]) -> SpanKeys:
    encoded = [base.template.encode_prompt(text) for text in texts]
    keys = read_prompt_spans(base, encoder.places, encoded)
    return replace(keys, key_MKF=keys.key_MKF.float())


def draw_codes(real: RealKeys, begin: int, count: int, widths: tuple[int, ...]) -> Codes:
    """The compact keys of neurons `begin` on: read ones, then mixes."""
    draw = torch.Generator().manual_seed(begin)
    size = len(real.code_NKC)
    index_N = torch.arange(begin, begin + count)
    first_N = torch.where(index_N < size, index_N, torch.randint(size, (count,), generator=draw))
    second_N = torch.randint(size, (count,), generator=draw)
    weight_N = 0.3 + 0.4 * torch.rand(count, generator=draw)
    weight_N11 = torch.where(index_N < size, torch.ones(()), weight_N)[:, None, None]
    mixed_NKC = real.code_NKC[first_N] * weight_N11 + real.code_NKC[second_N] * (1 - weight_N11)
    views = [normalize(view, dim=-1) for view in mixed_NKC.split(widths, -1)]
    return Codes.of(torch.cat(views, -1), widths)


def grow(store: OpenStore, real: RealKeys, size: int) -> list[float]:
    """Commit waves until the store has so many edits; the seconds of each."""
    router = store.loader.router
    assert router is not None
    taken = []
    while (begin := len(store.ledger.snapshot().ids)) < size:
        taken.append(commit(store, real, begin, min(WAVE, size - begin)))
    return taken


def commit(store: OpenStore, real: RealKeys, begin: int, count: int) -> float:
    """One wave; the seconds that its commit took, without making its bundle."""
    router = store.loader.router
    assert router is not None
    numbers = range(begin, begin + count)
    texts = [real.texts[i] if i < len(real.texts) else f"neuron {i}" for i in numbers]
    codes = draw_codes(real, begin, count, router.encoder.widths)
    parts = {
        "code": codes.int8_EKC,
        "code_scale": codes.scale_EKH,
        "code_encoder": torch.full((count,), router.encoder.number),
        "text": pack_texts(texts),
    }
    bundle = save_bundle(store.storage, parts)
    version = store.ledger.version()
    edits = [
        Edit(f"n{i}-{version}", f"Question {i}-{version}: {text}", "x")
        for i, text in zip(numbers, texts, strict=True)
    ]
    began = time.perf_counter()
    store.ledger.commit(WaveCommit(f"w{version}", "scale", version, bundle, edits), version)
    return time.perf_counter() - began


def bench_size(store: OpenStore, real: RealKeys, size: int) -> dict[str, float]:
    """Grow to a size; print and return its figures."""
    commits = grow(store, real, size)
    expert = {"down": torch.zeros(store.method.rank, store.base.config.intermediate_size),
              "up": torch.zeros(store.base.config.hidden_size, store.method.rank)}  # fmt: skip
    before_mb = resident_mb()
    cold = open_on(store.storage, store.base)
    reader = SnapshotReader(cold, SharedExpert(cold.storage, expert))
    served, cold_s = timed(reader.read)
    neurons = served.neurons
    assert isinstance(neurons, KeyNeurons)
    search_width = neurons.router.encoder.search_JD.shape[1]
    line: dict[str, float] = {
        "edits": size,
        "real_keys": min(size, len(real.code_NKC)),
        "cold_start_s": cold_s,
        "resident_mb": resident_mb() - before_mb,
        "key_bytes_per_edit": neurons.codes.bytes_per_edit + search_width + 4,
        "store_bytes_per_edit": _store_bytes(store) / size,
        **({"commit_s": statistics.median(commits[-5:])} if commits else {}),
        **route_times(neurons, real),
        **swap_times(store, reader, real, size),
    }
    emit(bench="scale_neurons", search=type(neurons.search).__name__, **line)
    return line


def route_times(neurons: KeyNeurons, real: RealKeys) -> dict[str, float]:
    """Milliseconds of search and of routing a prompt alone (medians of processor time), and
    percents of paraphrases that reach their edit and of absent questions that reach one."""
    encoder, threshold = neurons.router.encoder, neurons.router.threshold
    search, route, hits = [], [], []
    for row in real.paraphrases.row_M.unique().tolist():
        keys = real.paraphrases.take((real.paraphrases.row_M == row).nonzero().squeeze(1))
        keys = replace(keys, row_M=torch.zeros_like(keys.row_M))  # a batch of this prompt alone
        key_BD = encoder.search_key(encoder(keys.key_MKF))
        began = time.process_time()
        neurons.search.search(key_BD, 16)
        searched = time.process_time()
        best = best_spans(neurons.choose_spans(keys), keys.row_M, 1)
        route.append(time.process_time() - searched)
        search.append(searched - began)
        hits.append(int(best.index_B2[0, 0]) == row and float(best.score_B2[0, 0]) > threshold)
    count = int(real.absent.row_M.max()) + 1
    best = best_spans(neurons.choose_spans(real.absent), real.absent.row_M, count)
    return {
        "search_ms": 1e3 * statistics.median(search),
        "route_ms": 1e3 * statistics.median(route),
        "own": 100 * sum(hits) / len(hits),
        "edit absent": 100 * float((best.score_B2[:, 0] > threshold).float().mean()),
    }


def swap_times(
    store: OpenStore, reader: SnapshotReader, real: RealKeys, size: int
) -> dict[str, float]:
    """Seconds of reading a version with `NEW` edits more, or one less; the store has its old size
    afterwards."""
    added, revoked = [], []
    before = set(store.ledger.snapshot().ids)
    for repeat in range(REPEATS):
        commit(store, real, size + repeat * NEW, NEW)
        added.append(timed(reader.read)[1])
    new = [edit_id for edit_id in store.ledger.snapshot().ids if edit_id not in before]
    for edit_id in new[:REPEATS]:
        store.ledger.settle(Revoke([edit_id]))
        revoked.append(timed(reader.read)[1])
    store.ledger.settle(Revoke(new[REPEATS:]))
    return {"swap_s": statistics.median(added), "revoke_s": statistics.median(revoked)}


def resident_mb() -> float:
    """The most resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _store_bytes(store: OpenStore) -> int:
    root = Path(store.storage.uri)
    return sum(path.stat().st_size for path in root.rglob("*") if path.is_file())


def bench_neurons(run: ScaleRun, sizes: Sequence[int], prompts: int) -> list[dict[str, float]]:
    """A line per size, rising."""
    folder = run.folder / "neurons"
    config = load_config(fixed={"base": {"name": run.base, "template": run.template}})
    neutral = read_prompts(sample_path("nq_neutral.jsonl"))
    store = create_store(Storage(str(folder)), config, neutral)
    real = read_real_keys(run, store, prompts)
    return [bench_size(store, real, size) for size in sizes]
