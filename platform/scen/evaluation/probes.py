"""Probes: the prompts on which a set of edits is evaluated."""

import functools
import itertools
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import yaml

from scen.data.asking import Rewording, Topic, Turn, wordings
from scen.records import Edit
from scen.samples import sample_path

ProbeKind = Literal[
    "reliability",
    "generality",
    "near_miss",
    "locality",
    "retention",
    "asking",
    "task",
    "portability",
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


def portability_probes(
    edits: Sequence[Edit], seed: str = "", limit: int | None = None
) -> list[Probe]:
    """Questions whose answer follows from an edit, with that answer as target, in three kinds:
    `alias` (the prompt, with another name of its subject), `inverse` (from target to subject) and
    `one hop` (a fact about the target, which the base must know itself).

    At most `limit` of each kind, in the order of the edits. Deterministic for given edits and seed.
    """
    rng = random.Random(seed)
    about = _portability()
    unique = Counter((edit.relation, edit.target) for edit in edits)
    probes: list[Probe] = []
    for edit in edits:
        if not edit.subject:
            continue
        if names := subject_aliases(edit):
            prompt = edit.prompt.replace(edit.subject, rng.choice(names))
            probes.append(Probe("portability", prompt, "alias", edit.id, edit.target))
        inverse = about["inverse"].get(edit.relation)
        if inverse and unique[edit.relation, edit.target] == 1:
            prompt = inverse.replace("{target}", edit.target)
            probes.append(Probe("portability", prompt, "inverse", edit.id, edit.subject))
        if hops := _hops(edit):
            prompt, answer = rng.choice(hops)
            probes.append(Probe("portability", prompt, "one hop", edit.id, answer))
    kinds = ("alias", "inverse", "one hop")
    groups = ([probe for probe in probes if probe.source == kind] for kind in kinds)
    return [probe for group in groups for probe in group[:limit]]


def subject_aliases(edit: Edit) -> list[str]:
    """Other names of an edit's subject, made by rule: without what stands in brackets or behind a
    comma, and for people without their middle names or with initials for them. Empty if the prompt
    does not contain the subject."""
    subject = edit.subject or ""
    if not subject or subject not in edit.prompt:
        return []
    names = [re.sub(r"\s*\([^)]*\)", "", subject), subject.split(", ")[0]]
    words = subject.split()
    is_person = edit.relation in _portability()["names"]
    if is_person and len(words) >= 3 and all(word[0].isupper() for word in words):
        first, *middle, last = words
        names.append(f"{first} {last}")
        names.append(" ".join([first, *(f"{word[0]}." for word in middle), last]))
    return [name for name in dict.fromkeys(names) if name and name != subject]


def _hops(edit: Edit) -> list[tuple[str, str]]:
    """Questions about the edit's target, which is described, not named; and their answers."""
    about = _portability()
    chain = about["chains"].get(edit.relation)
    if chain is None:
        return []
    it = chain["it"].replace("{subject}", edit.subject or "")
    return [
        (fact["ask"].replace("{it}", it), fact["answers"][edit.target])
        for fact in about["facts"][chain["kind"]]
        if edit.target in fact["answers"]
    ]


@functools.cache
def _portability() -> Mapping[str, Any]:
    text = sample_path("portability.yaml").read_text(encoding="utf-8")
    content: Mapping[str, Any] = yaml.safe_load(text)
    return content
