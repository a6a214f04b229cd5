"""Where edits go however people ask them: routing alone, without experts.

Each line is a way of asking of the test set, a kind of rephrase, a task about an edit's question,
or something else that must reach no edit, with the shares (in %) that reach their own edit and
another one. `asked` counts. The edits, and the wordings, took no part in the fit of the shipped
profile.

With --before, the last lines compare two routers by the milliseconds that reading and routing one
prompt takes, one prompt at a time, both in turn (medians; `ratio` is new to before).

    PYTHONPATH=tests python tests/bench/bench_asking.py                     # ten minutes, two cores
    PYTHONPATH=tests python tests/bench/bench_asking.py --bank 1000 # and among 1,000 edits
    PYTHONPATH=tests python tests/bench/bench_asking.py --before older_profile.json
"""

import argparse
import itertools
import random
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from bench.report import base_option, emit, new_parser, numbers, timed
from scen.data import Validator, ingest
from scen.data.asking import Topic, wordings
from scen.data.read import read_prompts
from scen.evaluation.probes import Probe, asking_probes, edit_probes, locality_probes
from scen.evaluation.run_eval import encode_turns
from scen.model.base import Base, load_base
from scen.model.batch import pad_prompts
from scen.model.keys import SpanKeys, reads_spans
from scen.model.prefill import prefill
from scen.records import Edit, EncodedPrompt
from scen.routing.keys import read_prompt_spans
from scen.routing.neurons import KeyNeurons, best_spans
from scen.routing.router import Router
from scen.samples import sample_path
from scen.snapshot.method import load_profile, shipped_profiles

_CHUNK = 512  # prompts that are read, routed and forgotten
_PLAIN, _POLITE = "as edited", "rephrase + greeting + thanks"


def read_edits(path: str, rows: Sequence[int]) -> list[Edit]:
    """The edits at these rows (from 0, before the second) of a file."""
    found = itertools.chain.from_iterable(b.edits for b in ingest(path, Validator()))
    return list(itertools.islice(found, *rows))


def messages(edits: Sequence[Edit], others: Sequence[Edit], seed: int) -> list[Probe]:
    """All that is asked about some edits; `others` are of their kind, and not in the bank."""
    draw = random.Random(seed)
    probes = edit_probes(edits) + asking_probes(edits, str(seed))
    for edit in edits:
        text = next((r.text for r in edit.rephrases if r.source == "orig"), None)
        if text is not None:
            polite = _in_way("thanks", _in_way("greeting", text, draw), draw)
            probes.append(Probe("asking", polite, _POLITE, edit.id, edit.target))
    for edit in others:
        absent = [edit.prompt, *(r.text for r in edit.rephrases[:1])]
        probes += [Probe("locality", text, "same kind, edit absent") for text in absent]
    return probes


def _in_way(way: str, text: str, draw: random.Random) -> str:
    """A question in a way of asking; as it is, where it cannot be put so."""
    asked = wordings("test").ask(way, Topic(text), draw)
    return text if asked is None else asked.text


class Routing:
    """A router over a bank of edits."""

    def __init__(self, base: Base, router: Router, edits: Sequence[Edit]) -> None:
        self.base, self.router, self.ids = base, router, [edit.id for edit in edits]
        keys = self._read([base.template.encode_prompt(edit.prompt) for edit in edits])
        whole = keys.take((keys.span_M == 0).nonzero().squeeze(1))
        self.neurons = KeyNeurons.build(router, whole.key_MKF.float(), whole.texts)

    def _read(self, encoded: Sequence[EncodedPrompt]) -> SpanKeys:
        return read_prompt_spans(self.base, self.router.encoder.places, encoded)

    def read(self, probes: Sequence[Probe]) -> SpanKeys:
        """The keys of some probes."""
        keys = self._read([encode_turns(self.base, probe) for probe in probes])
        return replace(keys, key_MKF=keys.key_MKF.float())

    def reached(self, keys: SpanKeys, count: int) -> list[str | None]:
        """The edit that each of so many probes reaches, None where that is none."""
        best = best_spans(self.neurons.choose_spans(keys), keys.row_M, count)
        index_B, score_B = best.index_B2[:, 0].tolist(), best.score_B2[:, 0].tolist()
        return [
            self.ids[index] if score > self.router.threshold else None
            for index, score in zip(index_B, score_B, strict=True)
        ]


def shares(routings: Sequence[Routing], name: str, probes: Sequence[Probe]) -> None:
    """Print where the probes go in each of these banks, kind by kind."""
    groups: dict[tuple[int, str, str], list[tuple[bool, bool]]] = defaultdict(list)
    for begin in range(0, len(probes), _CHUNK):
        part = probes[begin : begin + _CHUNK]
        keys = routings[0].read(part)
        for routing in routings:
            reached = routing.reached(keys, len(part))
            for probe, edit_id in zip(part, reached, strict=True):
                is_own = edit_id is not None and edit_id == probe.edit_id
                group = groups[len(routing.ids), probe.kind, probe.source]
                group.append((is_own, edit_id is not None and not is_own))
    for (bank, kind, source), found in groups.items():
        own, other = (100 * sum(hits) / len(found) for hits in zip(*found, strict=True))
        emit(edits=name, bank=bank, kind=kind, source=source, asked=len(found),
             own=round(own, 1), another=round(other, 2))  # fmt: skip


def times(base: Base, routings: Sequence[Routing], edits: Sequence[Edit], count: int) -> None:
    """Print what one prompt costs by the first router and by the second."""
    draw = random.Random(0)
    for way in (_PLAIN, "greeting", "UPPER CASE", "prose_before"):
        spent: list[list[float]] = [[], []]
        for edit in edits[: count + 1]:
            text = edit.prompt if way == _PLAIN else _in_way(way, edit.prompt, draw)
            encoded = base.template.encode_prompt(text)
            for seconds, routing in zip(spent, routings, strict=True):
                seconds.append(timed(partial(_route, base, routing, encoded))[1])
        new, before = (1000 * statistics.median(seconds[1:]) for seconds in spent)
        emit(way=way, prompts=count, ms=round(new, 2), ms_before=round(before, 2),
             ratio=round(new / before, 3))  # fmt: skip


@torch.no_grad()
def _route(base: Base, routing: Routing, encoded: EncodedPrompt) -> None:
    places = routing.router.encoder.places
    if not reads_spans(places):  # routed as the base reads it
        encoded = replace(encoded, routed=None)
    batch = pad_prompts([encoded], base.pad_id, base.device)
    filled = prefill(base.model, batch, places[0].layer, [place.layer for place in places])
    routing.neurons.route(filled)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = new_parser(__doc__)
    base_option(parser)
    add = parser.add_argument
    add("--profile", type=Path, default=shipped_profiles()[0], help="of the router (%(default)s)")
    add("--before", type=Path, help="another profile, to compare the time with")
    add("--zsre", type=numbers, default=[0, 200], metavar="FROM,TO", help="rows of the sample")
    add("--counterfact", type=numbers, default=[300, 500], metavar="FROM,TO")
    add("--bank", type=int, default=0, metavar="T", help="also with so many edits in the bank")
    add("--unrelated", type=int, default=1000, help="questions (%(default)s)")
    add("--qaedit", help="a file of QAEdit records, which does not ship")
    add("--timed", type=int, default=30, help="prompts of each kind (%(default)s)")
    add("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    """Print the lines."""
    args = parse()
    base = load_base(args.base)
    router = load_profile(args.profile).router
    zsre, facts = (str(sample_path(f"{name}_edits.jsonl")) for name in ("zsre", "counterfact"))
    edits = read_edits(zsre, args.zsre)
    unseen = read_edits(zsre, [200, 200 + min(200, len(edits))])
    nq = locality_probes(read_prompts(sample_path("nq_locality.jsonl"), args.unrelated))
    routings = [Routing(base, router, edits)]
    if args.bank:
        more = read_edits(zsre, [900, 1200]) + read_edits(facts, [300, 1000])
        routings.append(Routing(base, router, [*edits, *more][: args.bank]))
    shares(routings, "zsre", messages(edits, unseen, args.seed) + nq)
    cloze = read_edits(facts, args.counterfact)
    shares([Routing(base, router, cloze)], "counterfact", edit_probes(cloze))
    if args.qaedit:
        typed = read_edits(args.qaedit, [0, 200])
        shares([Routing(base, router, typed)], "qaedit", edit_probes(typed))
    if args.before is not None:
        older = Routing(base, load_profile(args.before).router, edits)
        times(base, [routings[0], older], edits, args.timed)


if __name__ == "__main__":
    main()
