"""Why a prompt was routed as it was: the likeliest edits, and what spoke for each."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

import torch
from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from scen.cli.render import shorten
from scen.editor.decode import EditedModel
from scen.editor.keys import read_span_keys
from scen.editor.neurons import SigmoidNeurons
from scen.editor.prefill import Prefill
from scen.records import Edit
from scen.routing.explain import explain_spans
from scen.routing.key_neurons import KeyNeurons


@torch.no_grad()
def find_candidates(
    edited: EditedModel, filled: Prefill, edits: Sequence[Edit], count: int = 5
) -> list[dict[str, Any]]:
    """The likeliest edits of the first prompt of a batch, best first: id, prompt, score, the `span`
    of the message that is most like it, and `similarities`, the cosine by view (method scen has one
    number only, its score)."""
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
    keys = read_span_keys(filled, neurons.router.encoder.places)
    first = keys.take((keys.row_M == 0).nonzero().squeeze(1))
    found = explain_spans(neurons.choose_spans(first), first.texts, neurons.router, count)
    return [_candidate(edits[c.index], c.score, c.similarities, c.span) for c in found]


def _candidate(
    edit: Edit, score: float, similarities: dict[str, float], span: str = ""
) -> dict[str, Any]:
    return {
        "edit_id": edit.id,
        "prompt": edit.prompt,
        "score": round(score, 4),
        "span": span,
        "similarities": {name: round(value, 3) for name, value in similarities.items()},
    }


def reason(candidates: Sequence[dict[str, Any]], threshold: float) -> str:
    """Why it was routed, or was not, in one sentence."""
    if not candidates:
        return "no edit is active, so the base answers"
    first = candidates[0]
    side = "above" if first["score"] > threshold else "not above"
    who = "it answers" if first["score"] > threshold else "the base answers"
    asked = f" for {shorten(first['span'])!r}" if first["span"] else ""
    return (
        f"the likeliest edit, {first['edit_id']}, scores {first['score']:.4g}{asked}, {side} the "
        f"threshold {threshold:.4g}: {who}"
    )


def candidate_table(candidates: Sequence[dict[str, Any]], threshold: float) -> Table:
    """Candidates as rows; those above the threshold in green. Of each place the mean similarity:
    all of its views are too many for a terminal."""
    about = "Candidates, and how near their keys are (each view: --json)"
    table = Table(title=about, title_justify="left", title_style="bold", box=SIMPLE)
    for name in ("edit", "score", "prompt, keys"):
        table.add_column(name, justify="right" if name == "score" else "left")
    for found in candidates:
        style = "green" if found["score"] > threshold else ""
        near = "  ".join(f"{name} {fmean(some):.2f}" for name, some in _by_place(found).items())
        cells = [Text(text, style) for text in (found["edit_id"], f"{found['score']:.2f}")]
        prompt = Text(shorten(found["prompt"], 52), style)
        table.add_row(*cells, prompt.append(f"\n{near}", "dim") if near else prompt)
    return table


def _by_place(candidate: dict[str, Any]) -> dict[str, list[float]]:
    """The similarities of each place where keys are read."""
    found: dict[str, list[float]] = {}
    for view, value in candidate["similarities"].items():
        found.setdefault(view.split(".")[0], []).append(value)
    return found
