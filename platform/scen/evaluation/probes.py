"""Probes: the prompts on which a set of edits is evaluated."""

import itertools
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from scen.data.asking import Rewording, Topic, Turn, wordings
from scen.records import Edit

ProbeKind = Literal[
    "reliability", "generality", "near_miss", "locality", "retention", "asking", "task"
]


@dataclass(frozen=True, slots=True)
class Probe:
    """One prompt. `target` is the required answer; None if the base's answer must not change.

    `edit_id` is the edit it belongs to (None for shared locality prompts), `source` the origin of
    its wording, `earlier` the conversation turns before the prompt.
    """

    kind: ProbeKind
    prompt: str
    source: str
    edit_id: str | None = None
    target: str | None = None
    earlier: tuple[Turn, ...] = ()


def edit_probes(edits: Iterable[Edit]) -> list[Probe]:
    """The probes that edits bring along: prompt, rephrases, near misses, locality prompts."""
    probes: list[Probe] = []
    for edit in edits:
        probes.append(Probe("reliability", edit.prompt, "prompt", edit.id, edit.target))
        probes.extend(
            Probe("generality", r.text, r.source, edit.id, edit.target) for r in edit.rephrases
        )
        probes.extend(Probe("near_miss", text, "edit", edit.id) for text in edit.near_misses)
        probes.extend(Probe("locality", text, "edit", edit.id) for text in edit.locality_prompts)
    return probes


def locality_probes(prompts: Sequence[str]) -> list[Probe]:
    """Unrelated prompts, whose answers no edit may change."""
    return [Probe("locality", prompt, "file") for prompt in prompts]


def retention_probes(edits: Iterable[Edit]) -> list[Probe]:
    """The prompts of earlier edits, which must still be answered with their targets."""
    return [Probe("retention", edit.prompt, "earlier", edit.id, edit.target) for edit in edits]


def asking_probes(
    edits: Sequence[Edit], seed: str = "", limit: int | None = None, *, has_roles: bool = True
) -> list[Probe]:
    """The edits' prompts in the test set's ways of asking (kind `asking`), and tasks about them
    that ask for something else (`task`).

    Each edit in each way, or `limit` probes spread evenly over ways and edits. Without `has_roles`
    (templates of a single message), ways with earlier turns are left out. Deterministic for given
    edits and seed.
    """
    rng = random.Random(seed)
    ways = [*wordings("test").ways, *wordings("test").tasks]
    if limit is None:
        pairs = list(itertools.product(edits, ways))
    else:
        pairs = list(itertools.islice(_spread(edits, ways, rng), limit))
    probes = []
    for edit, way in pairs:
        asked = wordings("test").ask(way, Topic(edit.prompt, edit.subject), rng)
        if asked is not None and (has_roles or not asked.before):
            probes.append(_asking_probe(edit, asked))
    return probes


def _spread(
    edits: Sequence[Edit], ways: Sequence[str], rng: random.Random
) -> Iterator[tuple[Edit, str]]:
    """An endless stream of pairs: each way once per round, with a random edit."""
    while edits:
        for way in rng.sample(ways, len(ways)):
            yield rng.choice(edits), way


def _asking_probe(edit: Edit, asked: Rewording) -> Probe:
    if asked.wants_answer:
        return Probe("asking", asked.text, asked.way, edit.id, edit.target, asked.before)
    return Probe("task", asked.text, asked.way, edit.id, None, asked.before)
