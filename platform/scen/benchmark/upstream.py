"""What editing does to everything else: perplexity of plain text, and a cloze test."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from scen.benchmark.edited import Edited
from scen.benchmark.editors.bare import NoEditor
from scen.benchmark.figures import share
from scen.evaluation.forced import teacher_forced_loss
from scen.ingest import Validator, ingest
from scen.ingest.prompts import read_prompts
from scen.model.base import Base
from scen.model.batch import pad_prompts
from scen.model.template import Template
from scen.records import EncodedEdit
from scen.samples import sample_path

_BATCH = 8
_GIVEN = 0.3  # of a text; the rest is to be foretold


@dataclass(frozen=True)
class Upstream:
    """`passages` are (begin, rest); `clozes` are (prompt, true ending, false ending)."""

    passages: Sequence[tuple[str, str]]
    clozes: Sequence[tuple[str, str, str]]


def read_upstream(limit: int | None = None) -> Upstream:
    """Public-domain prose, and CounterFact's neighbourhood prompts with the true ending beside the
    one that an edit would put there. Both ship."""
    texts = read_prompts(sample_path("neutral_prose.jsonl"), limit)
    clozes = []
    for batch in ingest(sample_path("counterfact_edits.jsonl"), Validator(), limit=limit):
        for edit in batch.edits:
            truth = edit.metadata["target_true"]
            clozes += [(text, truth, edit.target) for text in edit.near_misses[:2]]
    return Upstream([cut_text(text) for text in texts], clozes)


def cut_text(text: str) -> tuple[str, str]:
    """The first third of a text's words, and the rest."""
    words = text.split(" ")
    given = max(1, round(len(words) * _GIVEN))
    return " ".join(words[:given]), " ".join(words[given:])


class UpstreamTest:
    """The test of a base; what the base itself makes of it is read once."""

    def __init__(self, base: Base, upstream: Upstream) -> None:
        self.base = base
        right = [(prompt, truth) for prompt, truth, _ in upstream.clozes]
        wrong = [(prompt, lie) for prompt, _, lie in upstream.clozes]
        self.texts = [*upstream.passages, *right, *wrong]
        self.ends = (len(upstream.passages), len(upstream.passages) + len(right))
        self.before = text_losses(base, NoEditor().edit(base, (), lambda *_: None), self.texts)

    def measure(self, edited: Edited) -> dict[str, float]:
        """`upstream/perplexity`, the share of clozes whose true ending is the likelier one per
        token, and the share of all texts with the base's own loss to the last bit."""
        after = text_losses(self.base, edited, self.texts)
        prose, half = self.ends
        hits = [a < b for a, b in zip(after[prose:half], after[half:], strict=True)]
        return {
            "upstream/perplexity": math.exp(fmean(after[:prose])),
            "upstream/cloze": share(hits),
            "upstream/identical": share_equal(self.before, after),
        }


def share_equal(before: Sequence[float], after: Sequence[float]) -> float:
    """The share of pairs that are equal to the last bit."""
    return share(a == b for a, b in zip(before, after, strict=True))


def text_losses(base: Base, edited: Edited, texts: Sequence[tuple[str, str]]) -> list[float]:
    """Nats per token of each text's second part behind its first.

    Texts stand as they are, without a chat template; the route is decided on the first part.
    """
    raw = Template("raw", base.tokenizer)
    model = edited.model(0)
    rows = [
        EncodedEdit(raw.encode_prompt(edited.rewrite(begin)), raw.encode_target(rest), 0)
        for begin, rest in texts
    ]
    order = sorted(range(len(rows)), key=lambda i: sum(map(len, texts[i])))
    found: dict[int, float] = {}
    for first in range(0, len(order), _BATCH):
        some = order[first : first + _BATCH]
        batch = [rows[i] for i in some]
        prompts = pad_prompts([row.prompt for row in batch], base.pad_id, base.device)
        route = model.route(model.prefill(prompts))
        found |= dict(zip(some, teacher_forced_loss(model, batch, route), strict=True))
    return [found[i] for i in range(len(rows))]
