"""The answers of one version of a store, or of a bare base, to several prompts."""

from collections.abc import Sequence

from scen.base.load import Base
from scen.editor.decode import EditedModel
from scen.registry.snapshot import Snapshot
from scen.snapshot.ask import answer_prompt
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
    """Greedy answers, one prompt after the other (see `answer_prompt`)."""
    told = (answer_prompt(base, edited, prompt, max_new_tokens)[1] for prompt in prompts)
    return [base.template.decode(one.tokens[0]) for one in told]
