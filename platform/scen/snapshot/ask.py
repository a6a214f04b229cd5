"""One prompt put to an edited model."""

from scen.base.load import Base
from scen.editor.batch import pad_prompts
from scen.editor.decode import Decoded, EditedModel, answer
from scen.editor.prefill import Prefill


def answer_prompt(
    base: Base, edited: EditedModel, prompt: str, max_new_tokens: int
) -> tuple[Prefill, Decoded]:
    """The greedy answer, and the pass over the prompt that it began with. One prompt at a time: in
    a batch, bfloat16 may round differently. Raises ConfigError for a prompt without words."""
    encoded = base.template.encode_prompt(prompt.strip())
    filled = edited.prefill(pad_prompts([encoded], base.pad_id, base.device))
    return filled, answer(edited, filled, edited.route(filled), max_new_tokens)
