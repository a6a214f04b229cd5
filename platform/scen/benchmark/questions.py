"""The two kinds of benchmark, and the upstream test of plain text (perplexity and clozes).

Questions are answered freely: edits, rephrases, and prompts whose answer must not change. Passages
are scored by perplexity: sentences that edits append to a passage, and sentences that must keep
their likelihood (SelfCheckGPT-Hallucination, arXiv 2404.02699).
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean, median

from scen.benchmark.ask import ProbeAnswer, ask_probes, beam_answers
from scen.benchmark.editors.in_context import NoEditor
from scen.benchmark.editors.scen_methods import Edited, Editor
from scen.benchmark.settings import BenchmarkSettings, Material, Progress, Row, data_path
from scen.benchmark.tables import PUBLISHED, counts, quality, retention
from scen.data import Validator, ingest
from scen.data.read import read_prompts
from scen.evaluation.metrics import Outcome
from scen.evaluation.probes import Probe, asking_probes, portability_probes
from scen.evaluation.run_eval import EvalLimits, teacher_forced_loss
from scen.model.base import Base
from scen.model.batch import pad_prompts
from scen.model.decode import decode
from scen.model.template import Template
from scen.records import Edit, EncodedEdit
from scen.samples import sample_path

_BATCH = 8
_GIVEN = 0.3  # share of a text that is given; the rest is scored


@dataclass(frozen=True)
class Upstream:
    """`passages` are (begin, rest); `clozes` are (prompt, true ending, false ending)."""

    passages: Sequence[tuple[str, str]]
    clozes: Sequence[tuple[str, str, str]]


def read_upstream(limit: int | None = None) -> Upstream:
    """Public-domain prose, and CounterFact's neighbourhood prompts with the true ending and the
    edit's target as false ending. Both are packaged samples."""
    texts = read_prompts(sample_path("neutral_prose.jsonl"), limit)
    clozes = []
    for batch in ingest(sample_path("counterfact_edits.jsonl"), Validator(), limit=limit):
        for edit in batch.edits:
            truth = edit.metadata["target_true"]
            clozes += [(text, truth, edit.target) for text in edit.near_misses[:2]]
    return Upstream([split_text(text) for text in texts], clozes)


def split_text(text: str) -> tuple[str, str]:
    """The first 30 % of a text's words, and the rest."""
    words = text.split(" ")
    given = max(1, round(len(words) * _GIVEN))
    return " ".join(words[:given]), " ".join(words[given:])


class UpstreamTest:
    """The upstream test of a base; the base's own losses are computed once."""

    def __init__(self, base: Base, upstream: Upstream) -> None:
        self.base = base
        right = [(prompt, truth) for prompt, truth, _ in upstream.clozes]
        wrong = [(prompt, false) for prompt, _, false in upstream.clozes]
        self.texts = [*upstream.passages, *right, *wrong]
        self.ends = (len(upstream.passages), len(upstream.passages) + len(right))
        self.before = text_losses(base, NoEditor().edit(base, (), lambda *_: None), self.texts)

    def measure(self, edited: Edited) -> dict[str, float]:
        """`upstream/perplexity`, the share of clozes whose true ending is likelier per token
        (`upstream/cloze`), and the share of all texts with a loss bit-identical to the base's
        (`upstream/identical`)."""
        after = text_losses(self.base, edited, self.texts)
        prose, half = self.ends
        hits = [a < b for a, b in zip(after[prose:half], after[half:], strict=True)]
        return {
            "upstream/perplexity": math.exp(fmean(after[:prose])),
            "upstream/cloze": fmean(hits),
            "upstream/identical": share_equal(self.before, after),
        }


def share_equal(before: Sequence[float], after: Sequence[float]) -> float:
    """The share of pairs that are bit-identical."""
    return fmean(a == b for a, b in zip(before, after, strict=True))


def text_losses(base: Base, edited: Edited, texts: Sequence[tuple[str, str]]) -> list[float]:
    """Nats per token of each text's second part given its first.

    Texts are encoded without a chat template; the route is decided on the first part.
    """
    raw = Template("raw", base.tokenizer)
    model = edited.model(0)
    rows = [
        EncodedEdit(raw.encode_prompt(edited.rewrite(begin)), raw.encode_target(rest), 0)
        for begin, rest in texts
    ]
    order = sorted(range(len(rows)), key=lambda i: sum(map(len, texts[i])))
    losses: dict[int, float] = {}
    for first in range(0, len(order), _BATCH):
        indices = order[first : first + _BATCH]
        batch = [rows[i] for i in indices]
        prompts = pad_prompts([row.prompt for row in batch], base.pad_id, base.device)
        route = model.route(model.prefill(prompts))
        losses |= dict(zip(indices, teacher_forced_loss(model, batch, route), strict=True))
    return [losses[i] for i in range(len(rows))]


Text = tuple[str, str]


def read_texts(settings: BenchmarkSettings) -> dict[str, list[Text]]:
    """Texts whose likelihood must not change, as (begin, rest): `near` shares subjects with the
    edits, `unrelated` does not."""
    texts: dict[str, list[Text]] = {}
    if settings.near is not None:
        batches = ingest(data_path(settings.near), Validator())
        texts["near"] = [(e.prompt, e.target) for batch in batches for e in batch.edits]
    unrelated = read_prompts(data_path(settings.unrelated), settings.unrelated_limit)
    return texts | {"unrelated": [split_text(text) for text in unrelated]}


class PassageBenchmark:
    """The passages of edits on a base; the base's own losses are computed once."""

    def __init__(self, base: Base, edits: Sequence[Edit], texts: dict[str, list[Text]]) -> None:
        self.base, self.edits = base, edits
        self.kinds = {"edited": [(edit.prompt, edit.target) for edit in edits]} | texts
        self.before = self._losses(NoEditor().edit(base, (), lambda *_: None))

    def measure(self, method: str, editor: Editor, progress: Progress) -> Row:
        """Edit the base and compute perplexities, with the route decided on the beginning of each
        text.

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
        return Row(method, total, figures, [], {k: len(texts) for k, texts in self.kinds.items()})

    def _losses(self, edited: Edited) -> dict[str, list[float]]:
        return {kind: text_losses(self.base, edited, texts) for kind, texts in self.kinds.items()}


_REPHRASES = 3  # of one source and edit, at most
_UNCHANGED_TOKENS, _MAX_TOKENS = 12, 32  # of answers that must not change; of others
_TIMED = 8  # tokens of a timed answer
_NEVER = frozenset({-1})  # no token


class QuestionBenchmark:
    """The probes of edits on a base; the base's own answers are computed once."""

    def __init__(
        self,
        base: Base,
        settings: BenchmarkSettings,
        material: Material,
        edits: Sequence[Edit],
        upstream: UpstreamTest | None = None,
    ) -> None:
        self.base, self.settings, self.edits = base, settings, edits
        self.upstream = upstream
        self.limits = EvalLimits(settings.batch_size, _MAX_TOKENS, _UNCHANGED_TOKENS)
        self.probes, self.places = _probes(edits, material)
        self._add_other_ways()
        self.folds = [place % settings.folds for place in self.places]
        self._before: dict[int, ProbeAnswer] | None = None

    def measure(self, method: str, editor: Editor, progress: Progress) -> Row:
        """Edit the base, answer all probes, and measure latencies."""
        total = len(self.edits)
        began = time.perf_counter()
        edited = editor.edit(self.base, self.edits, partial(progress, f"{method}: edit"))
        seconds = time.perf_counter() - began - edited.spare_seconds
        answers = self._answers(edited, range(len(self.probes)), method, progress)
        outcomes = self._outcomes(answers, progress)
        figures = quality(outcomes) | {
            "extra_tokens": fmean(answer.extra_tokens for answer in answers),
            "seconds_per_edit": seconds / total,
            "bytes_per_edit": edited.num_bytes / total,
        }
        figures |= self._latencies(edited)
        if self.upstream is not None:
            figures |= self.upstream.measure(edited)
        if self.settings.beam_limit and edited.has_beams:
            figures |= self._beam(
                edited, lambda n: progress(f"{method}: beam", n, 2 * self.settings.beam_limit)
            )
        ages = [place / total for place in self.places]
        return Row(method, total, figures, retention(outcomes, ages), counts(outcomes))

    def _add_other_ways(self) -> None:
        place = {edit.id: i for i, edit in enumerate(self.edits)}
        limit, has_roles = self.settings.asking_limit, self.base.template.has_roles
        probes = asking_probes(self.edits, limit=limit, has_roles=has_roles)
        if self.settings.portability_limit:
            probes += portability_probes(self.edits, limit=self.settings.portability_limit)
        self.probes += probes
        self.places += [place[probe.edit_id or ""] for probe in probes]

    def _outcomes(self, answers: Sequence[ProbeAnswer], progress: Progress) -> list[Outcome]:
        """A method's answers beside the base's."""
        if self._before is None:
            bare = NoEditor().edit(self.base, self.edits, lambda *_: None)
            free = [i for i, probe in enumerate(self.probes) if probe.target is None]
            known = self._answers(bare, free, "base", progress)
            self._before = dict(zip(free, known, strict=True))
        outcomes = []
        for i, (probe, after) in enumerate(zip(self.probes, answers, strict=True)):
            before = self._before.get(i)
            outcomes.append(
                Outcome(
                    probe=probe,
                    before="" if before is None else before.text,
                    after=after.text,
                    routed_to=after.routed_to,
                    score=after.score,
                    nearest=None,
                    identical=None if before is None else after.digest == before.digest,
                    forced_after=after.teacher_forced,
                )
            )
        return outcomes

    def _answers(
        self, edited: Edited, indices: Sequence[int], method: str, progress: Progress
    ) -> list[ProbeAnswer]:
        def on_batch(done: int) -> None:
            progress(f"{method}: ask", done, len(indices))

        probes, folds = [self.probes[i] for i in indices], [self.folds[i] for i in indices]
        return ask_probes(self.base, edited, probes, folds, self.limits, on_batch)

    def _latencies(self, edited: Edited) -> dict[str, float]:
        """Median seconds for eight tokens at batch size 1, on edited and on unrelated prompts."""
        count = self.settings.latency_prompts
        medians = {}
        for name, kind, source in (
            ("latency_edited", "reliability", "prompt"),
            ("latency_unrelated", "locality", "unrelated"),
        ):
            chosen = [p.prompt for p in self.probes if (p.kind, p.source) == (kind, source)][:count]
            medians[name] = median([self._time(edited, prompt) for prompt in chosen][1:] or [0.0])
        return medians

    def _time(self, edited: Edited, prompt: str) -> float:
        model = replace(edited.model(0), stop_ids=_NEVER)  # so that all answers are equally long
        began = time.perf_counter()
        encoded = self.base.template.encode_prompt(edited.rewrite(prompt))
        decode(model, pad_prompts([encoded], self.base.pad_id, self.base.device), _TIMED)
        return time.perf_counter() - began

    def _beam(self, edited: Edited, progress: Callable[[int], None]) -> dict[str, float]:
        """Shares of exact answers with the paper's decoding: to edits and to their published
        rephrases."""
        shares = {}
        for name, kind, source in (
            ("reliability", "reliability", "prompt"),
            (f"generality/{PUBLISHED}", "generality", PUBLISHED),
        ):
            indices = [i for i, p in enumerate(self.probes) if (p.kind, p.source) == (kind, source)]
            indices = indices[: self.settings.beam_limit]
            prompts = [self.probes[i].prompt for i in indices]
            folds = [self.folds[i] for i in indices]
            limits = (self.settings.batch_size // 2 or 1, _MAX_TOKENS)
            answers = beam_answers(self.base, edited, prompts, folds, limits, progress)
            hits = [text == self.probes[i].target for text, i in zip(answers, indices, strict=True)]
            shares[f"beam/{name}"] = fmean(hits or [0.0])
        return shares


def _probes(edits: Sequence[Edit], material: Material) -> tuple[list[Probe], list[int]]:
    """The probes, and the position in the stream of the edit that each is about; probes about no
    edit are spread over all positions."""
    probes: list[Probe] = []
    places: list[int] = []
    for i, edit in enumerate(edits):
        seen: dict[str, int] = {}
        own = [Probe("reliability", edit.prompt, "prompt", edit.id, edit.target)]
        for rephrase in edit.rephrases:
            seen[rephrase.source] = seen.get(rephrase.source, 0) + 1
            if seen[rephrase.source] <= _REPHRASES:
                own.append(
                    Probe("generality", rephrase.text, rephrase.source, edit.id, edit.target)
                )
        own += [Probe("near_miss", text, "same subject", edit.id) for text in edit.near_misses]
        probes += own
        places += [i] * len(own)
    for source, prompts in (("unrelated", material.unrelated), ("same kind", material.same_kind)):
        probes += [Probe("locality", text, source) for text in prompts]
        places += [i % len(edits) for i in range(len(prompts))]
    return probes, places
