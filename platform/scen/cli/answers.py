"""The answers of one version of a store, or of a bare base, to several prompts."""

from collections.abc import Sequence

from scen.base.load import Base
from scen.editor.batch import pad_prompts
from scen.editor.decode import EditedModel, answer
from scen.registry.snapshot import Snapshot
from scen.snapshot.open import OpenStore


def answer_all(
    store: OpenStore, snapshot: Snapshot, prompts: Sequence[str], max_new_tokens: int
) -> list[str]:
    """Greedy answers of a version."""
    if not prompts:
        return []
    return answer_each(store.base, store.edited_model(snapshot), prompts, max_new_tokens)


def answer_each(
    base: Base, edited: EditedModel, prompts: Sequence[str], max_new_tokens: int
) -> list[str]:
    """Greedy answers, one prompt after the other: in a batch, bfloat16 may round differently."""
    found = []
    for prompt in prompts:
        encoded = base.template.encode_prompt(prompt.strip())
        filled = edited.prefill(pad_prompts([encoded], base.pad_id, base.device))
        told = answer(edited, filled, edited.route(filled), max_new_tokens)
        found.append(base.template.decode(told.tokens[0]))
    return found
