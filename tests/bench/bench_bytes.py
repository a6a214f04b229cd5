"""Bytes of an edit against exact answers: ranks of experts, in 16 and in 8 bits.

ZsRE edits that the shipped profile was not fitted on are trained at each rank. Each expert is
stored in float16 and in int8, and asked by free decoding with its route given, so that only the
expert is judged: on the edit's prompt, on the published rephrase, and in capitals and between other
sentences (wordings of the set `test`). Bytes are those of the bundle, over its edits: experts
alone, with raw keys and texts, with compact keys and texts. `keys_alike` is the share of prompts of
these edits, published rephrases included, that reach the same edit with the same score whether the
bundle holds raw or compact keys. `--shape 4096,11008` prints bytes for another base's sizes
instead; `of_paper` is the ratio to a float32 copy of the matrix, which the published method stores.

    PYTHONPATH=tests python tests/bench/bench_bytes.py
    PYTHONPATH=tests python tests/bench/bench_bytes.py --shape 4096,11008
"""

import argparse
import random
import time
from collections.abc import Sequence
from dataclasses import replace

import safetensors.torch
import torch
from torch import Tensor

from bench.report import base_option, emit, new_parser, numbers
from scen.calibration.choose_expert import bare_model
from scen.config import load_config
from scen.data import Validator, ingest
from scen.data.asking import Topic, wordings
from scen.ledger.tensors import read_tensor, stored_parts
from scen.model.base import Base, load_base
from scen.model.batch import pad_prompts
from scen.model.decode import decode
from scen.model.expert import build_bank
from scen.model.route import Route
from scen.pipeline.work import wave_plan
from scen.records import Edit
from scen.routing.key_bank import Codes
from scen.routing.keys import read_prompt_keys
from scen.routing.neurons import KeyNeurons
from scen.routing.router import Router
from scen.samples import sample_path
from scen.snapshot.load import choose_profile, stored_form
from scen.snapshot.method import StoreMethod, resolve_method
from scen.training.experts import WAYS, encode_edits
from scen.training.parts import Fitted, cut_parts, fit_part, join_parts

BITS = (16, 8)
_SPARE_TOKENS = 8
_BATCH = 32


def read_edits(first: int, count: int) -> list[Edit]:
    """So many ZsRE edits of the sample, from this one on."""
    found: list[Edit] = []
    for batch in ingest(sample_path("zsre_edits.jsonl"), Validator(), limit=first + count):
        found.extend(batch.edits)
    return found[first:]


def train(base: Base, edits: Sequence[Edit], rank: int) -> tuple[StoreMethod, Fitted]:
    """The method and the tensors of experts of this rank, under the default settings otherwise."""
    config = load_config(fixed={"expert": {"rank": rank}})
    profile = choose_profile(config, base)
    method = replace(resolve_method(config, base.num_layers, profile), rank=rank)
    encoded = encode_edits(base.template, edits, other_ways=config.expert.other_ways)
    parts, plan = cut_parts(encoded, config.expert.batch_size), wave_plan(config, method)
    fitted = [fit_part(base.model, plan, [encoded[i] for i in p], base.pad_id) for p in parts]
    return method, join_parts(parts, fitted)


def ways_of(edits: Sequence[Edit]) -> dict[str, list[str]]:
    """The prompts that are asked, by name, edit by edit."""
    asked = {"prompt": [e.prompt for e in edits], "rephrase": [e.rephrases[0].text for e in edits]}
    for way in WAYS:
        texts = []
        for edit in edits:
            found = wordings("test").ask(way, Topic(edit.prompt, edit.subject), random.Random(0))
            texts.append(edit.prompt if found is None else found.text)
        asked[way] = texts
    return asked


def share_exact(
    base: Base, layer: int, bank: dict[str, Tensor], edits: Sequence[Edit], texts: Sequence[str]
) -> float:
    """Percent of the texts that are answered with the target of the edit at the same index."""
    edited = bare_model(base, layer, build_bank(bank))
    hits = 0
    for rows in torch.arange(len(edits)).split(_BATCH):
        some = [edits[i] for i in rows.tolist()]
        encoded = [base.template.encode_prompt(texts[i]) for i in rows.tolist()]
        limit = max(len(base.template.encode_target(e.target)) for e in some) + _SPARE_TOKENS
        batch = pad_prompts(encoded, base.pad_id, base.device)
        decoded = decode(edited, batch, limit, Route.fixed(rows.tolist(), base.device))
        answers = [base.template.decode(tokens) for tokens in decoded.tokens]
        hits += sum(a == e.target for a, e in zip(answers, some, strict=True))
    return round(100 * hits / len(edits), 1)


def size(tensors: dict[str, Tensor], count: int) -> int:
    """Bytes per edit of a bundle, header included."""
    plain = {name: tensor.contiguous() for name, tensor in tensors.items()}
    return round(len(safetensors.torch.save(plain)) / count)


def keys_alike(base: Base, router: Router, raw_EKF: Tensor, edits: Sequence[Edit]) -> float:
    """Percent of prompts and rephrases with the same first edit and score by either kind of key."""
    texts = [edit.prompt for edit in edits] + [edit.rephrases[0].text for edit in edits]
    asked_BKF = read_prompt_keys(base, router.encoder.places, texts).float()
    encoder = router.encoder
    waves = [Codes.of(encoder(part), encoder.widths) for part in raw_EKF.split(_BATCH)]
    both = [
        neurons.choose(asked_BKF)
        for neurons in (
            KeyNeurons.build(router, raw_EKF),
            KeyNeurons.of_codes(router, Codes.join(waves)),
        )
    ]
    same = (both[0].index_BE[:, 0] == both[1].index_BE[:, 0]) & (
        both[0].score_BE[:, 0] == both[1].score_BE[:, 0]
    )
    return round(100 * float(same.float().mean()), 1)


def bench(base: Base, args: argparse.Namespace) -> None:
    """A line per rank and number type."""
    edits = [e for e in read_edits(args.first, args.edits) if e.rephrases]
    asked, paper = ways_of(edits), 4 * base.config.hidden_size * base.config.intermediate_size
    profile = choose_profile(load_config(), base)
    for rank in args.ranks:
        began = time.perf_counter()
        method, fitted = train(base, edits, rank)
        seconds = time.perf_counter() - began
        router = None if profile is None else profile.router
        alike = router and keys_alike(base, router, fitted.tensors["key"].float(), edits)
        steps = sum(map(len, fitted.losses)) / len(edits)
        for bits in BITS:
            raw, compact = (
                stored_form(fitted.tensors, replace(method, bits=bits, raw_keys=keep), router)
                for keep in (True, False)
            )
            bank = {name: read_tensor(compact, name) for name in ("down", "up")}
            exact = {
                f"exact_{way}": share_exact(base, method.layer, bank, edits, texts)
                for way, texts in asked.items()
            }
            least = size(compact, len(edits))
            emit(bench="bytes", rank=rank, bits=bits, edits=len(edits), **exact,
                 seconds_per_edit=seconds / len(edits), mean_steps=steps,
                 bytes_expert=size(stored_parts(compact, ("down", "up")), len(edits)),
                 bytes_raw=size(raw, len(edits)), bytes_compact=least,
                 of_paper=round(paper / least), keys_alike=alike)  # fmt: skip


def tell_sizes(args: argparse.Namespace) -> None:
    """A line per rank and number type, for bundles of random tensors at these sizes."""
    (hidden, inner), count = args.shape, 64
    for rank in args.ranks:
        for bits in BITS:
            experts = {"down": torch.randn(count, rank, inner).half(),
                       "up": torch.randn(count, hidden, rank).half()}  # fmt: skip
            method = StoreMethod("scen-lr", 0, rank, (), None, {}, bits=bits)
            experts = stored_form(experts, method, None)
            text = {"text": torch.zeros(count, 256, dtype=torch.uint8)}
            raw = {"key": torch.zeros(count, args.places, inner, dtype=torch.float16)}
            code = {"code": torch.zeros(count, args.places, 512, dtype=torch.int8),
                    "code_scale": torch.zeros(count, args.places, 4),
                    "code_encoder": torch.zeros(count, dtype=torch.int64)}  # fmt: skip
            least = size(experts | text | code, count)
            emit(bench="bytes_of_shape", hidden=hidden, inner=inner, rank=rank, bits=bits,
                 bytes_expert=size(experts, count), bytes_raw=size(experts | text | raw, count),
                 bytes_compact=least, of_paper=round(4 * hidden * inner / least))  # fmt: skip


def parse() -> argparse.Namespace:
    """The command line."""
    parser = new_parser(__doc__)
    base_option(parser)
    add = parser.add_argument
    add("--first", type=int, default=900, help="ZsRE edit of the sample, from 0 (%(default)s)")
    add("--edits", type=int, default=200, help="from there on (%(default)s)")
    add("--ranks", type=numbers, default="4,2,1", help="of experts (%(default)s)")
    add("--shape", type=numbers, metavar="HIDDEN,INNER", help="only sizes, without a base")
    add("--places", type=int, default=6, help="of keys, with --shape (%(default)s)")
    return parser.parse_args()


def main() -> None:
    """Print the lines."""
    args = parse()
    if args.shape:
        tell_sizes(args)
    else:
        bench(load_base(args.base), args)


if __name__ == "__main__":
    main()
