"""The benchmark of questions: free answers to edits, rephrases, and what must stay as it is."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from statistics import median

from scen.benchmark.ask import Said, ask_probes, beam_answers
from scen.benchmark.editors.in_context import NoEditor
from scen.benchmark.editors.scen_methods import Edited, Editor
from scen.benchmark.material import Material, Progress, Row
from scen.benchmark.settings import BenchmarkSettings
from scen.benchmark.tables import PUBLISHED, Asked, counts, quality, retention, share
from scen.benchmark.texts import UpstreamTest
from scen.evaluation.probes import Probe, asking_probes
from scen.evaluation.run_eval import EvalLimits
from scen.model.base import Base
from scen.model.batch import pad_prompts
from scen.model.decode import decode
from scen.records import Edit

_REPHRASES = 3  # of one source and edit, at most
_SPOKEN, _MOST = 12, 32  # tokens of answers that must stay; of others, at most
_TIMED = 8  # tokens of answers that are timed
_NEVER = frozenset({-1})  # no token


class Questioning:
    """The probes of some edits on a base; the base's own answers are asked for once."""

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
        self.limits = EvalLimits(settings.batch_size, _MOST, _SPOKEN)
        self.probes, self.places = _probes(edits, material)
        self._ask_in_other_ways()
        self.folds = [place % settings.folds for place in self.places]
        self._before: dict[int, Said] | None = None

    def measure(self, method: str, editor: Editor, progress: Progress) -> Row:
        """Edit the base, ask it everything, and time it."""
        total = len(self.edits)
        began = time.perf_counter()
        edited = editor.edit(self.base, self.edits, partial(progress, f"{method}: edit"))
        seconds = time.perf_counter() - began - edited.spare_seconds
        asked = self._ask(edited, method, progress)
        figures = quality(asked) | {
            "seconds_per_edit": seconds / total,
            "bytes_per_edit": edited.num_bytes / total,
        }
        figures |= self._latencies(edited)
        if self.upstream is not None:
            figures |= self.upstream.measure(edited)
        if self.settings.beam_limit:
            figures |= self._beam(
                edited, lambda n: progress(f"{method}: beam", n, 2 * self.settings.beam_limit)
            )
        return Row(method, total, figures, retention(asked), counts(asked))

    def _ask_in_other_ways(self) -> None:
        place = {edit.id: i for i, edit in enumerate(self.edits)}
        limit, has_roles = self.settings.asking_limit, self.base.template.has_roles
        asked = asking_probes(self.edits, limit=limit, has_roles=has_roles)
        self.probes += asked
        self.places += [place[probe.edit_id or ""] for probe in asked]

    def _ask(self, edited: Edited, method: str, progress: Progress) -> list[Asked]:
        if self._before is None:
            bare = NoEditor().edit(self.base, self.edits, lambda *_: None)
            silent = [i for i, probe in enumerate(self.probes) if probe.target is None]
            said = self._said(bare, silent, "base", progress)
            self._before = dict(zip(silent, said, strict=True))
        every = range(len(self.probes))
        after = self._said(edited, every, method, progress)
        ages = [place / len(self.edits) for place in self.places]
        return [Asked(self.probes[i], self._before.get(i), after[i], ages[i]) for i in every]

    def _said(
        self, edited: Edited, some: Sequence[int], method: str, progress: Progress
    ) -> list[Said]:
        def told(done: int) -> None:
            progress(f"{method}: ask", done, len(some))

        probes, folds = [self.probes[i] for i in some], [self.folds[i] for i in some]
        return ask_probes(self.base, edited, probes, folds, self.limits, told)

    def _latencies(self, edited: Edited) -> dict[str, float]:
        """Median seconds of eight tokens, asked alone: edited prompts and unrelated ones."""
        count = self.settings.latency_prompts
        found = {}
        for name, kind, source in (
            ("latency_edited", "reliability", "prompt"),
            ("latency_unrelated", "locality", "unrelated"),
        ):
            some = [p.prompt for p in self.probes if (p.kind, p.source) == (kind, source)][:count]
            found[name] = median([self._time(edited, prompt) for prompt in some][1:] or [0.0])
        return found

    def _time(self, edited: Edited, prompt: str) -> float:
        model = replace(edited.model(0), stop_ids=_NEVER)  # so that all speak as long
        began = time.perf_counter()
        encoded = self.base.template.encode_prompt(edited.rewrite(prompt))
        decode(model, pad_prompts([encoded], self.base.pad_id, self.base.device), _TIMED)
        return time.perf_counter() - began

    def _beam(self, edited: Edited, progress: Callable[[int], None]) -> dict[str, float]:
        """Exact answers by the paper's decoding: of edits, and of their published rephrases."""
        found = {}
        for name, kind, source in (
            ("reliability", "reliability", "prompt"),
            (f"generality/{PUBLISHED}", "generality", PUBLISHED),
        ):
            some = [i for i, p in enumerate(self.probes) if (p.kind, p.source) == (kind, source)]
            some = some[: self.settings.beam_limit]
            prompts = [self.probes[i].prompt for i in some]
            folds = [self.folds[i] for i in some]
            limits = (self.settings.batch_size // 2 or 1, _MOST)
            said = beam_answers(self.base, edited, prompts, folds, limits, progress)
            found[f"beam/{name}"] = share(
                text == self.probes[i].target for text, i in zip(said, some, strict=True)
            )
        return found


def _probes(edits: Sequence[Edit], material: Material) -> tuple[list[Probe], list[int]]:
    """The probes, and the place in the stream of the edit that each is about; of the others, any
    place."""
    probes: list[Probe] = []
    places: list[int] = []
    for i, edit in enumerate(edits):
        seen: dict[str, int] = {}
        some = [Probe("reliability", edit.prompt, "prompt", edit.id, edit.target)]
        for rephrase in edit.rephrases:
            seen[rephrase.source] = seen.get(rephrase.source, 0) + 1
            if seen[rephrase.source] <= _REPHRASES:
                some.append(
                    Probe("generality", rephrase.text, rephrase.source, edit.id, edit.target)
                )
        some += [Probe("near_miss", text, "same subject", edit.id) for text in edit.near_misses]
        probes += some
        places += [i] * len(some)
    for source, prompts in (("unrelated", material.unrelated), ("same kind", material.same_kind)):
        probes += [Probe("locality", text, source) for text in prompts]
        places += [i % len(edits) for i in range(len(prompts))]
    return probes, places
