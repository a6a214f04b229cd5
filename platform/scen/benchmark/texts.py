"""Effects of editing on plain text: passages, perplexity of unrelated text, and a cloze test.

The benchmark of passages scores sentences that edits put behind a passage and sentences that must
keep their likelihood (SelfCheckGPT-Hallucination, arXiv 2404.02699).
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean

from scen.benchmark.editors.in_context import NoEditor
from scen.benchmark.editors.scen_methods import Edited, Editor
from scen.benchmark.material import Progress, Row
from scen.benchmark.settings import BenchmarkSettings, data_path
from scen.benchmark.tables import share
from scen.data import Validator, ingest
from scen.data.read import read_prompts
from scen.evaluation.metrics import teacher_forced_loss
from scen.model.base import Base
from scen.model.batch import pad_prompts
from scen.model.template import Template
from scen.records import Edit, EncodedEdit
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


Text = tuple[str, str]


def read_texts(settings: BenchmarkSettings) -> dict[str, list[Text]]:
    """What must stay as it is, as (begin, rest): `near` shares its subjects with edits,
    `unrelated` nothing."""
    found: dict[str, list[Text]] = {}
    if settings.near is not None:
        batches = ingest(data_path(settings.near), Validator())
        found["near"] = [(e.prompt, e.target) for batch in batches for e in batch.edits]
    unrelated = read_prompts(data_path(settings.unrelated), settings.unrelated_limit)
    return found | {"unrelated": [cut_text(text) for text in unrelated]}


class Passages:
    """The passages of some edits on a base, which is read once itself."""

    def __init__(self, base: Base, edits: Sequence[Edit], texts: dict[str, list[Text]]) -> None:
        self.base, self.edits = base, edits
        self.kinds = {"edited": [(edit.prompt, edit.target) for edit in edits]} | texts
        self.before = self._losses(NoEditor().edit(base, (), lambda *_: None))

    def measure(self, method: str, editor: Editor, progress: Progress) -> Row:
        """Edit the base; perplexities with the route decided on the begin of each text.

        A perplexity is the exponential of the mean, over texts, of the nats per token.
        """
        total = len(self.edits)
        began = time.perf_counter()
        edited = editor.edit(self.base, self.edits, partial(progress, f"{method}: edit"))
        seconds = time.perf_counter() - began - edited.spare_seconds
        figures = {
            "seconds_per_edit": seconds / total,
            "bytes_per_edit": edited.num_bytes / total,
        }
        for kind, losses in self._losses(edited).items():
            figures[f"perplexity/{kind}"] = math.exp(fmean(losses))
            figures[f"identical/{kind}"] = share_equal(self.before[kind], losses)
        return Row(method, total, figures, [], {k: len(some) for k, some in self.kinds.items()})

    def _losses(self, edited: Edited) -> dict[str, list[float]]:
        return {kind: text_losses(self.base, edited, some) for kind, some in self.kinds.items()}
