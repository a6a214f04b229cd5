"""Probes: the prompts with which a set of edits is measured."""

import itertools
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from scen.data.asking import Ask, Asked, Turn, wordings
from scen.records import Edit

ProbeKind = Literal[
    "reliability", "generality", "near_miss", "locality", "retention", "asking", "task"
]


@dataclass(frozen=True, slots=True)
class Probe:
    """One prompt. `target` is what it must answer; None where the base's answer must stay.

    `edit_id` is the edit it belongs to (None for shared locality prompts); `source` says where its
    wording comes from. `earlier` are the turns of the conversation before the prompt.
    """

    kind: ProbeKind
    prompt: str
    source: str
    edit_id: str | None = None
    target: str | None = None
    earlier: tuple[Turn, ...] = ()


def edit_probes(edits: Iterable[Edit]) -> list[Probe]:
    """The probes that edits carry: prompt, rephrases, near misses, locality prompts."""
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
    """Unrelated prompts that no edit may change."""
    return [Probe("locality", prompt, "file") for prompt in prompts]


def retention_probes(edits: Iterable[Edit]) -> list[Probe]:
    """The prompts of earlier edits, which must still be answered."""
    return [Probe("retention", edit.prompt, "earlier", edit.id, edit.target) for edit in edits]


def asking_probes(
    edits: Sequence[Edit], seed: str = "", limit: int | None = None, *, has_roles: bool = True
) -> list[Probe]:
    """The edits' prompts in the ways of asking of the test set (kind `asking`), and tasks about
    them, which ask something else (`task`).

    Each edit in each way, or `limit` probes spread evenly over ways and edits. Without `has_roles`,
    for templates that know one message only, ways with earlier turns are left out. The same edits
    and seed give the same probes.
    """
    draw = random.Random(seed)
    ways = [*wordings("test").ways, *wordings("test").tasks]
    if limit is None:
        pairs = list(itertools.product(edits, ways))
    else:
        pairs = list(itertools.islice(_spread(edits, ways, draw), limit))
    asked = ((edit, _asked(edit, way, draw)) for edit, way in pairs)
    return [
        _asking_probe(edit, found)
        for edit, found in asked
        if found is not None and (has_roles or not found.before)
    ]


def _spread(
    edits: Sequence[Edit], ways: Sequence[str], draw: random.Random
) -> Iterator[tuple[Edit, str]]:
    """Endless pairs: every way once before any is drawn again, each with some edit."""
    while edits:
        for way in draw.sample(ways, len(ways)):
            yield draw.choice(edits), way


def _asked(edit: Edit, way: str, draw: random.Random) -> Asked | None:
    return wordings("test").ask(way, Ask(edit.prompt, edit.subject), draw)


def _asking_probe(edit: Edit, asked: Asked) -> Probe:
    if asked.wants_answer:
        return Probe("asking", asked.text, asked.way, edit.id, edit.target, asked.before)
    return Probe("task", asked.text, asked.way, edit.id, None, asked.before)
