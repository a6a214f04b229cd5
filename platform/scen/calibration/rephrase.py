"""Other wordings for edits that come without: written by the base, and made from templates."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from scen.calibration.bare import bare_model
from scen.model.base import Base
from scen.model.batch import pad_prompts
from scen.model.decode import decode
from scen.model.route import Route
from scen.records import Edit, Rephrase, normalise
from scen.training.router_set import make_rephrases, names_subject, question_templates

_REQUEST = (
    "Question: Who wrote Hamlet?\nThe same question in other words: Hamlet was written by whom?\n"
    "Question: {}\nThe same question in other words:"
)
_TOKENS = 32
_BATCH = 32


def complete_edits(
    base: Base, edits: Sequence[Edit], progress: Callable[[int], None] = lambda _: None
) -> list[Edit]:
    """The edits, each with rephrases: its own, or where it has none those of the base (source
    `base`) and of templates (`made`). `progress` is told of each batch's size."""
    templates = question_templates(edits)
    bare = [edit for edit in edits if not edit.rephrases]
    written: dict[str, tuple[Rephrase, ...]] = {}
    for begin in range(0, len(bare), _BATCH):
        some = bare[begin : begin + _BATCH]
        for edit, told in zip(some, _ask(base, some), strict=True):
            own = [Rephrase(told, "base")] if is_other_wording(told, edit) else []
            written[edit.id] = (*own, *make_rephrases(edit, templates))
        progress(len(some))
    return [replace(edit, rephrases=edit.rephrases or written[edit.id]) for edit in edits]


def _ask(base: Base, edits: Sequence[Edit]) -> list[str]:
    """What the base makes of each prompt, its first line."""
    encoded = [base.template.encode_prompt(_REQUEST.format(edit.prompt)) for edit in edits]
    batch = pad_prompts(encoded, base.pad_id, base.device)
    told = decode(bare_model(base), batch, _TOKENS, Route.base(len(edits), base.device))
    texts = [base.template.decode(tokens) for tokens in told.tokens]
    return [(text.strip().splitlines() or [""])[0].strip(" \"'") for text in texts]


def is_other_wording(text: str, edit: Edit) -> bool:
    """A base may repeat the prompt, answer it, or lose its subject."""
    if normalise(text) == normalise(edit.prompt) or len(text) > 2 * len(edit.prompt) + 20:
        return False
    return names_subject(text, edit)
