"""Edits in other ways of asking: an expert acts on what the base makes of the whole message, and
must tell its target whatever stands around the question."""

import random
from collections.abc import Sequence
from dataclasses import replace

from scen.data.asking import Ask, wordings
from scen.model.template import Template
from scen.records import Edit, EncodedEdit, EncodedPrompt

WAYS = ("UPPER CASE", "several")
"""The ways of asking in which answers were lost most, and that lie far from one another. Drawn from
the wordings to fit on."""


def encode_edits(
    template: Template, edits: Sequence[Edit], *, other_ways: bool
) -> list[EncodedEdit]:
    """Edits as tokens, with their questions in other ways of asking where those are wanted. A `raw`
    template completes texts, which nobody asks: it has none."""
    encoded = [template.encode_edit(edit) for edit in edits]
    if not other_ways or template.name == "raw":
        return encoded
    return [
        replace(one, ways=_ways(template, edit)) for one, edit in zip(encoded, edits, strict=True)
    ]


def _ways(template: Template, edit: Edit) -> tuple[EncodedPrompt, ...]:
    """The same for the same edit, in whatever wave."""
    draw, about = random.Random(edit.seed), Ask(edit.prompt, edit.subject)
    asked = [wordings("fit").ask(way, about, draw) for way in WAYS]
    prompts = [template.encode_prompt(one.text) for one in asked if one is not None]
    return tuple(replace(prompt, routed=None) for prompt in prompts)  # nothing is routed here
