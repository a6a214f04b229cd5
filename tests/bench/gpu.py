"""Everything that needs a CUDA device, in one command: `make gpu`. At most 9 minutes on one GPU,
without a network. Writes one JSON file, and a table to stderr.

    PYTHONPATH=tests python tests/bench/gpu.py --out gpu.json
    PYTHONPATH=tests python tests/bench/gpu.py --device cpu --small     # the same on tiny shapes

The base has the shapes of Llama-2-7B and random weights (bfloat16, byte tokenizer): speeds and
memory are those of the shapes, answers mean nothing. Steps, each with its seconds and its peak of
device memory:

tests          the tests that are marked `gpu` (with --device cuda): bit-identity, mixed batches,
               ZeRO-3 with offload on one rank, routing on the device
bits           bfloat16 and float16: unrouted rows of a mixed batch against the base, bit for bit
stage1         experts: `scen-lr` in batches against the published procedure
stage2         neurons of T edits, all at once (method `scen`)
routing        milliseconds per prompt in a batch of 32, by number of neurons
serving        the engine of `scen serve` at 1, 8 and 32 clients: base, and every other question
               about an edit

A step that would begin after `--budget` seconds is left out, and said to be. Exit code 1 if a step
fails.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from bench.bench_serve import make_engine, mixed
from bench.bench_stage1 import plan_of
from bench.random_base import make_random_base
from bench.report import emit, hardware, new_parser, paper_layer, timed
from bench.serve_load import run_load
from scen.config import load_config
from scen.data import Validator, ingest
from scen.data.read import read_prompts
from scen.fs import Storage
from scen.model import reference
from scen.model.base import Base, open_base
from scen.model.batch import pad_prompts
from scen.model.decode import EditedModel, answer
from scen.model.expert import LowRankBank
from scen.model.route import Route, SigmoidNeurons
from scen.pipeline.local import LocalParts
from scen.pipeline.plan import Wave
from scen.pipeline.stream import settings
from scen.records import Edit, EncodedEdit
from scen.routing.key_bank import Codes
from scen.routing.neurons import KeyNeurons
from scen.samples import sample_path
from scen.snapshot.open import OpenStore, create_store
from scen.tracking.client import NullTracker
from scen.training.experts import encode_edits, fit_experts
from scen.training.parts import NeuronPlan, fit_neurons

ROOT = Path(__file__).parents[2]
LLAMA_2_7B = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 32_000,
}
SMALL = LLAMA_2_7B | {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4,
                      "num_attention_heads": 4, "num_key_value_heads": 4,
                      "vocab_size": 300}  # fmt: skip
Figures = dict[str, Any]


@dataclass(frozen=True)
class Sizes:
    """How much each step does."""

    shape: dict[str, int]
    edits: int
    reference_edits: int
    neurons: tuple[int, ...]
    banks: tuple[int, ...]
    requests: int
    clients: tuple[int, ...]


FULL = Sizes(LLAMA_2_7B, 128, 4, (200, 1000), (1000, 10_000, 100_000), 64, (1, 8, 32))
QUICK = Sizes(SMALL, 4, 1, (5,), (20,), 4, (1, 2))


def random_base(folder: Path, shape: dict[str, int], dtype: str, device: torch.device) -> Base:
    """A Llama of this shape whose random weights are made on the device."""
    opened = open_base(str(folder), template="llama2-inst", dtype=dtype, device=str(device))
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    config = AutoConfig.for_model("llama", max_position_embeddings=4096, **ids, **shape)
    torch.manual_seed(0)
    with torch.device(device):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=opened.load_dtype)
    base = replace(opened, config=config)
    vars(base)["model"] = model.eval().requires_grad_(False)  # in place of the folder's weights
    return base


def sample(base: Base, count: int) -> tuple[list[Edit], list[EncodedEdit]]:
    """ZsRE edits of the sample, and as tokens."""
    batches = ingest(sample_path("zsre_edits.jsonl"), Validator(), limit=count)
    edits = [edit for batch in batches for edit in batch.edits]
    return edits, encode_edits(base.template, edits, other_ways=False)


class Bench:
    """The steps, on one device and within a budget of seconds."""

    def __init__(self, device: torch.device, sizes: Sizes, folder: Path, budget: float) -> None:
        self.device, self.sizes, self.folder, self.budget = device, sizes, folder, budget
        self.began, self.steps = time.perf_counter(), dict[str, Figures]()
        self.tiny = make_random_base(folder / "tiny")

    def step(self, name: str, work: Callable[[], Figures]) -> None:
        """Run a step and keep its figures, or its error."""
        began, is_cuda = time.perf_counter(), self.device.type == "cuda"
        if began - self.began > self.budget:
            self.steps[name] = {"left_out": f"{self.budget:g} s were over"}
            return
        if is_cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
        try:
            figures = work()
        except Exception:
            figures = {"error": traceback.format_exc(limit=6)}
        figures["step_seconds"] = round(time.perf_counter() - began, 2)
        if is_cuda:
            figures["peak_gib"] = round(torch.cuda.max_memory_allocated(self.device) / 2**30, 2)
        self.steps[name] = figures

    def now(self) -> float:
        """A clock that waits for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def run_tests(self) -> Figures:
        """`pytest -m gpu`, in a process of its own."""
        command = [sys.executable, "-P", "-m", "pytest", "-q", "-m", "gpu", "tests/unit"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stdout[-4000:])
        return {"summary": done.stdout.strip().splitlines()[-1]}

    def bits(self, dtype: str) -> Figures:
        """A mixed batch of a base of few layers against the same batch without experts."""
        shape = self.sizes.shape | {"num_hidden_layers": 4}
        base = random_base(self.tiny, shape, dtype, self.device)
        _, encoded = sample(base, 8)
        inner, hidden = shape["intermediate_size"], shape["hidden_size"]
        bank = LowRankBank(
            torch.randn(8, 4, inner, device=self.device) / inner**0.5,
            torch.randn(8, hidden, 4, device=self.device),
        )
        nobody = SigmoidNeurons(2, torch.zeros(0, inner, device=self.device), 1.0)
        edited = EditedModel(base.model, 2, bank, nobody, base.pad_id, base.stop_ids)
        batch = pad_prompts([edit.prompt for edit in encoded], base.pad_id, self.device)
        filled = edited.prefill(batch)
        routes = (Route.base(8, self.device), Route.fixed([0, -1] * 4, self.device))
        plain, mixed_ = (answer(edited, filled, r, 4, keep_logits=True).logits_BSV for r in routes)
        assert plain is not None
        assert mixed_ is not None
        steps = min(plain.shape[1], mixed_.shape[1])
        same_B = (plain[:, :steps] == mixed_[:, :steps]).flatten(1).all(1)
        assert same_B[1::2].all(), "an unrouted row has other logits than the base"
        assert not same_B[::2].any(), "a routed row has the base's logits"
        return {"rows_identical": int(same_B.sum()), "rows": 8}

    def stage_1(self, base: Base) -> Figures:
        """Seconds per edit, ours and published."""
        _, encoded = sample(base, self.sizes.edits)
        few = encoded[: self.sizes.reference_edits]
        began = self.now()
        for edit in few:
            reference.train_expert(base.model, paper_layer(base), edit)
        published = (self.now() - began) / len(few)
        plan, size = plan_of(base, "scen-lr", other_ways=False)
        fit_experts(base.model, plan, encoded[:2], base.pad_id)  # warm up
        began, steps = self.now(), 0
        for begin in range(0, len(encoded), size):
            fitted = fit_experts(base.model, plan, encoded[begin : begin + size], base.pad_id)
            steps += sum(map(len, fitted.losses))
        ours = (self.now() - began) / len(encoded)
        return {
            "edits": len(encoded),
            "seconds_per_edit": ours,
            "published_seconds_per_edit": published,
            "ratio": published / ours,
            "mean_steps": steps / len(encoded),
        }

    def stage_2(self) -> Figures:
        """Seconds for all neurons of T edits, by T."""
        found = {}
        for count in self.sizes.neurons:
            h_EF = torch.randn(count, self.sizes.shape["intermediate_size"], device=self.device)
            began = self.now()
            fit_neurons(h_EF, list(range(count)), NeuronPlan(20, 1e-4))
            found[f"seconds_T{count}"] = self.now() - began
        return found

    def routing(self, store: OpenStore) -> Figures:
        """Milliseconds per prompt of reading keys and of routing, in a batch of 32."""
        base, router = store.base, store.loader.router
        assert router is not None
        prompts = read_prompts(sample_path("nq_locality.jsonl"), 32)
        batch = pad_prompts(
            [base.template.encode_prompt(p) for p in prompts], base.pad_id, base.device
        )
        encoder, found = router.encoder, Figures()
        for count in self.sizes.banks:
            draw = torch.Generator().manual_seed(0)
            code_EKC = torch.randn(count, len(encoder.places), sum(encoder.widths), generator=draw)
            neurons = KeyNeurons.of_codes(router, Codes.of(code_EKC, encoder.widths))
            edited = replace(store.edited_model(store.ledger.snapshot(0)), neurons=neurons)
            filled = edited.prefill(batch)
            edited.route(filled)  # warm up
            began = self.now()
            edited.prefill(batch)
            prefilled = self.now()
            edited.route(filled)
            found[f"route_ms_{count}"] = 1e3 * (self.now() - prefilled) / len(prompts)
            found["prefill_ms"] = 1e3 * (prefilled - began) / len(prompts)
        return found

    def serving(self, store: OpenStore) -> Figures:
        """Tokens per second and latencies by load and number of clients."""
        edits, _ = sample(store.base, 32)
        config = load_config(fixed={"expert": {"steps": 3}})
        wave = Wave("gpu", 0, tuple(edits), settings(config, store))
        parts = LocalParts(store, config, [], NullTracker())
        parts.commit(wave, parts.train(wave), {"report": {"reliability": None}})
        engine, reader = make_engine(store)
        engine.snapshot = edited = reader.read(1)
        plain, found = reader.read(0), Figures()
        for clients in self.sizes.clients:
            unedited, half = mixed(store, [e.prompt for e in edits], self.sizes.requests)
            run_load(engine, edited, half[:clients], clients)  # warm up
            for name, snapshot, asked in (("base", plain, unedited), ("half", edited, half)):
                load = run_load(engine, snapshot, asked, clients).figures()
                for key in ("tokens_per_second", "latency_ms_p50", "first_token_ms_p50"):
                    found[f"{name}_{clients}_{key}"] = load[key]
        return found

    def run(self) -> None:
        """All steps."""
        if self.device.type == "cuda":
            self.step("tests", self.run_tests)
        for dtype in ("bfloat16", "float16"):
            self.step(f"bits, {dtype}", lambda dtype=dtype: self.bits(dtype))  # type: ignore[misc]
        self.step("stage2", self.stage_2)
        base, seconds = timed(
            lambda: random_base(self.tiny, self.sizes.shape, "bfloat16", self.device)
        )
        self.steps["base"] = {"parameters": base.num_parameters, "step_seconds": round(seconds, 2)}
        self.step("stage1", lambda: self.stage_1(base))
        config = load_config()
        neutral = read_prompts(sample_path("nq_neutral.jsonl"), 64)
        storage = Storage(str(self.folder / "store"))
        store = create_store(storage, config, neutral, base=base)
        self.step("routing", lambda: self.routing(store))
        self.step("serving", lambda: self.serving(store))


def card(device: torch.device) -> Figures:
    """The device by name, its memory, and the versions that matter."""
    facts: Figures = {
        "hardware": hardware(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
    }
    if device.type == "cuda":
        about = torch.cuda.get_device_properties(device)
        facts |= {"card": about.name, "memory_gib": round(about.total_memory / 2**30, 1)}
    return facts


def tell_table(steps: dict[str, Figures]) -> None:
    """A line per figure, in Markdown, on stderr."""
    sys.stderr.write("\n| step | figure | value |\n| --- | --- | ---: |\n")
    for name, figures in steps.items():
        for figure, value in figures.items():
            shown = f"{value:.4g}" if isinstance(value, float) else str(value)
            sys.stderr.write(f"| {name} | {figure} | {shown} |\n")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = new_parser(__doc__)
    add = parser.add_argument
    add("--device", default="cuda", help="of torch (%(default)s)")
    add("--small", action="store_true", help="tiny shapes and few of everything")
    add("--budget", type=float, default=450, help="seconds; no step begins later (%(default)s)")
    add("--out", type=Path, metavar="FILE", help="the figures as JSON")
    return parser.parse_args()


def main() -> int:
    """Run the steps; 1 if one failed."""
    args = parse()
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.stderr.write(
            "gpu: there is no CUDA device here; --device cpu --small tries the steps\n"
        )
        return 1
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(device, QUICK if args.small else FULL, Path(folder), args.budget)
        bench.run()
    seconds = round(time.perf_counter() - bench.began, 1)
    result = card(device) | {"small": args.small, "seconds": seconds, "steps": bench.steps}
    if args.out is not None:
        args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    tell_table(bench.steps)
    emit(bench="gpu", **{name: value for name, value in result.items() if name != "hardware"})
    return int(any("error" in figures for figures in bench.steps.values()))


if __name__ == "__main__":
    sys.exit(main())
