"""The benchmark of passages: perplexity of sentences that were put behind a passage, and of
sentences that must stay as likely as they were (SelfCheckGPT-Hallucination, arXiv 2404.02699)."""

import math
import time
from collections.abc import Sequence
from functools import partial
from statistics import fmean

from scen.benchmark.edited import Edited, Editor
from scen.benchmark.editors.bare import NoEditor
from scen.benchmark.material import Progress, Row
from scen.benchmark.settings import BenchmarkSettings, data_path
from scen.benchmark.upstream import cut_text, share_equal, text_losses
from scen.ingest import Validator, ingest
from scen.ingest.prompts import read_prompts
from scen.model.base import Base
from scen.records import Edit

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
