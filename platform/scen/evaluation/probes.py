"""Probes: the prompts with which a set of edits is measured."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from scen.records import Edit

ProbeKind = Literal["reliability", "generality", "near_miss", "locality", "retention"]


@dataclass(frozen=True, slots=True)
class Probe:
    """One prompt. `target` is what it must answer; None where the base's answer must stay.

    `edit_id` is the edit it belongs to (None for shared locality prompts); `source` says where its
    wording comes from.
    """

    kind: ProbeKind
    prompt: str
    source: str
    edit_id: str | None = None
    target: str | None = None


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
