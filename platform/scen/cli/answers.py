"""The answers of one version of a store to several prompts."""

from collections.abc import Sequence

from scen.editor.batch import pad_prompts
from scen.editor.decode import answer
from scen.registry.snapshot import Snapshot
from scen.snapshot.open import OpenStore


def answer_all(
    store: OpenStore, snapshot: Snapshot, prompts: Sequence[str], max_new_tokens: int
) -> list[str]:
    """Greedy answers, one prompt after the other: in a batch, bfloat16 may round differently."""
    if not prompts:
        return []
    edited, base = store.edited_model(snapshot), store.base
    found = []
    for prompt in prompts:
        encoded = base.template.encode_prompt(prompt.strip())
        filled = edited.prefill(pad_prompts([encoded], base.pad_id, base.device))
        told = answer(edited, filled, edited.route(filled), max_new_tokens)
        found.append(base.template.decode(told.tokens[0]))
    return found
