"""Why a prompt was routed as it was: the likeliest edits, and what spoke for each."""

from collections.abc import Sequence
from typing import Any

import torch
from rich.table import Table
from rich.text import Text

from scen.cli.render import shorten
from scen.editor.decode import EditedModel
from scen.editor.keys import read_keys
from scen.editor.neurons import SigmoidNeurons
from scen.editor.prefill import Prefill
from scen.records import Edit
from scen.routing.explain import explain
from scen.routing.key_neurons import KeyNeurons


@torch.no_grad()
def find_candidates(
    edited: EditedModel, filled: Prefill, edits: Sequence[Edit], count: int = 5
) -> list[dict[str, Any]]:
    """The likeliest edits of the first prompt of a batch, best first: id, prompt, score, and
    `similarities`, the cosine by view (method scen has one number only, its score)."""
    neurons = edited.neurons
    if len(neurons) == 0:
        return []
    if isinstance(neurons, SigmoidNeurons):
        best = neurons.score(filled)[0].topk(min(count, len(neurons)))
        return [
            _candidate(edits[i], score, {})
            for i, score in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]
    assert isinstance(neurons, KeyNeurons)
    choice = neurons.choose(read_keys(filled, neurons.router.encoder.places)[:1])
    found = explain(choice, 0, neurons.router, count)
    return [_candidate(edits[c.index], c.score, c.similarities) for c in found]


def _candidate(edit: Edit, score: float, similarities: dict[str, float]) -> dict[str, Any]:
    return {
        "edit_id": edit.id,
        "prompt": edit.prompt,
        "score": round(score, 4),
        "similarities": {name: round(value, 3) for name, value in similarities.items()},
    }


def reason(candidates: Sequence[dict[str, Any]], threshold: float) -> str:
    """Why it was routed, or was not, in one sentence."""
    if not candidates:
        return "no edit is active, so the base answers"
    first = candidates[0]
    side = "above" if first["score"] > threshold else "not above"
    who = "it answers" if first["score"] > threshold else "the base answers"
    return (
        f"the likeliest edit, {first['edit_id']}, scores {first['score']:.4g}, {side} the "
        f"threshold {threshold:.4g}: {who}"
    )


def candidate_table(candidates: Sequence[dict[str, Any]], threshold: float) -> Table:
    """Candidates as rows; those above the threshold in green."""
    table = Table(title="Candidates", title_justify="left", title_style="bold")
    views = list(candidates[0]["similarities"]) if candidates else []
    for name in ("edit", "prompt", "score", *views):
        table.add_column(name, justify="right" if name not in ("edit", "prompt") else "left")
    for found in candidates:
        style = "green" if found["score"] > threshold else ""
        cells = [found["edit_id"], shorten(found["prompt"], 44), f"{found['score']:.2f}"]
        cells += [f"{value:.2f}" for value in found["similarities"].values()]
        table.add_row(*(Text(cell, style=style) for cell in cells))
    return table
