"""What a method makes of a base, in the one form that is scored."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from scen.model.base import Base
from scen.model.decode import EditedModel
from scen.records import Edit

Progress = Callable[[int], None]
StepProgress = Callable[[int, int], None]
"""So many steps more are done, of so many in all."""


def as_it_stands(prompt: str) -> str:
    """The prompt."""
    return prompt


@dataclass(frozen=True)
class Edited:
    """A base after a method has had its edits.

    `models` is one model; or several, of which model f answers what is about edits f, f + n, ...
    (see `PlatformEditor.folds`). `experts` are the ids of the edits by the index of their expert,
    where a method has such. `rewrite` is what becomes of a prompt before it is put to the model.
    `num_bytes` is what has to be kept beside the base; `spare_seconds` of the editing are not the
    method's own.
    """

    models: tuple[EditedModel, ...]
    num_bytes: int
    experts: Sequence[str] = ()
    rewrite: Callable[[str], str] = as_it_stands
    spare_seconds: float = 0.0

    def model(self, fold: int) -> EditedModel:
        """The model that answers questions of a fold."""
        return self.models[fold % len(self.models)]

    def name(self, expert: int) -> str | None:
        """The edit of an expert; None for the base, and where experts are no edits."""
        return self.experts[expert] if 0 <= expert < len(self.experts) else None


class Editor(Protocol):
    """A way to make a base answer otherwise. Its fields are its settings."""

    def edit(self, base: Base, edits: Sequence[Edit], progress: StepProgress) -> Edited:
        """The base with all of these edits, in this order. The base itself is left as it is.

        A step of `progress` is an edit, as often as the method goes through all of them.
        """
        ...
