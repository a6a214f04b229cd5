"""One version of a store, for asking and evaluation."""

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import overload

from scen.config import Config
from scen.data.read import Row, Source
from scen.errors import ConfigError, InputError
from scen.ledger.state import Snapshot as LedgerSnapshot
from scen.pipeline.evaluate import EvalJob, Evaluation, evaluate, measure_here
from scen.pipeline.runtime import Runtime
from scen.records import Edit
from scen.snapshot.ask import MAX_NEW_TOKENS, Answer, VersionModel
from scen.snapshot.open import OpenStore

_NUM_LIKELY = 5

Edits = str | Path | Iterable[Row]  # a file, or rows
Prompts = list[str] | tuple[str, ...]


class Snapshot:
    """One immutable version of a store; version 0 is the base. Created by `Store.snapshot`."""

    def __init__(
        self,
        snapshot: LedgerSnapshot,
        open_store: Callable[[], OpenStore],
        config: Config,
        runtime: Runtime,
    ) -> None:
        self._snapshot, self._open_store = snapshot, open_store
        self._config, self._runtime = config, runtime

    def __repr__(self) -> str:
        return f"<scen.Snapshot version {self.version}, {len(self._snapshot.ids)} edits>"

    @property
    def version(self) -> int:
        """The number of the version."""
        return self._snapshot.version

    @property
    def edits(self) -> list[Edit]:
        """The active edits, in commit order."""
        return [entry.edit for entry in self._snapshot.entries]

    @overload
    def ask(
        self,
        prompt: str,
        *,
        max_new_tokens: int = ...,
        base_answer: bool = ...,
        explain: bool = ...,
    ) -> Answer: ...

    @overload
    def ask(
        self,
        prompt: Prompts,
        *,
        max_new_tokens: int = ...,
        base_answer: bool = ...,
        explain: bool = ...,
    ) -> list[Answer]: ...

    def ask(
        self,
        prompt: str | Prompts,
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        base_answer: bool = False,
        explain: bool = False,
    ) -> Answer | list[Answer]:
        """The greedy answer to a prompt, of at most `max_new_tokens` tokens; for several prompts, a
        list in the same order.

        Several prompts are decoded in batches of up to 32, which is faster than one by one; in
        bfloat16 the last bits may then differ. `base_answer` adds the answer of the base, `explain`
        the five likeliest edits with their scores and similarities. Raises ConfigError for an empty
        prompt or `max_new_tokens` below 1, BaseError if the base is not the store's.
        """
        if max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens: {max_new_tokens} is not at least 1")
        num_likely = _NUM_LIKELY if explain else 0
        model = self._model
        if isinstance(prompt, str):
            return model.ask(prompt, max_new_tokens, base_answer=base_answer, num_likely=num_likely)
        return model.ask_all(prompt, max_new_tokens, base_answer=base_answer, num_likely=num_likely)

    def evaluate(
        self,
        edits: Edits | None = None,
        *,
        limit: int | None = None,
        data_format: str = "auto",
        locality: str | Path | None = None,
        asking: bool = False,
        allow_null_text: bool = False,
    ) -> Evaluation:
        """Evaluate the version on its active edits, or on `edits` (as for `Store.edit`), at most
        `limit` of them, and on the prompts of the file `locality`, which no edit may change
        (default: a sample). With `asking`, every edit is also asked in twenty other ways.
        `data_format` and `allow_null_text` are those of `Store.edit`. Raises InputError if no edit
        can be used."""
        source = None if edits is None else as_source(edits)
        path = None if locality is None else str(locality)
        job = EvalJob(self.version, source, limit, path, asking, data_format, allow_null_text)
        return evaluate(self._open_store(), self._config, job, measure_here(self._runtime))

    @cached_property
    def _model(self) -> VersionModel:
        return self._open_store().at(self._snapshot)


def as_source(edits: Edits) -> Source:
    """A file path as a string, or the rows as a list. Raises InputError for a single edit."""
    if isinstance(edits, str | Path):
        return str(edits)
    if isinstance(edits, Edit | Mapping):
        raise InputError("edits: give a list of them, such as [{'prompt': ..., 'target': ...}]")
    return list(edits)
