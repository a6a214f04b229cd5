"""One version of a store, to be asked and measured."""

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
    """One version of a store, which stays as it is. Version 0 is the base. Made by
    `Store.snapshot`."""

    def __init__(
        self,
        found: LedgerSnapshot,
        opened: Callable[[], OpenStore],
        config: Config,
        runtime: Runtime,
    ) -> None:
        self._found, self._opened = found, opened
        self._config, self._runtime = config, runtime

    def __repr__(self) -> str:
        return f"<scen.Snapshot version {self.version}, {len(self._found.ids)} edits>"

    @property
    def version(self) -> int:
        """The number of the version."""
        return self._found.version

    @property
    def edits(self) -> list[Edit]:
        """The active edits, in the order of their commits."""
        return [entry.edit for entry in self._found.entries]

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
        """The greedy answer to a prompt, of at most so many tokens; to several prompts, a list in
        their order.

        Several prompts are decoded in batches of up to 32, which is faster than one by one; in
        bfloat16 the last bits may then differ. With `base_answer`, the answer of the base is there
        too; with `explain`, the five likeliest edits and what spoke for each. Raises ConfigError
        for a prompt without words or no tokens, BaseError where the base is not the store's.
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
        locality: str | Path | None = None,
        asking: bool = False,
    ) -> Evaluation:
        """Measure how well the version answers: its active edits, or these (see `Store.edit`), the
        first `limit` of them, and beside them the prompts of a file `locality`, which no edit may
        change (default: a sample). With `asking`, every edit is asked in twenty other ways too.
        Raises InputError where no edit can be used."""
        source = None if edits is None else as_source(edits)
        place = None if locality is None else str(locality)
        job = EvalJob(self.version, source, limit, place, asking)
        return evaluate(self._opened(), self._config, job, measure_here(self._runtime))

    @cached_property
    def _model(self) -> VersionModel:
        return self._opened().at(self._found)


def as_source(edits: Edits) -> Source:
    """A file by name, or the rows in a list. Raises InputError for one edit without a list."""
    if isinstance(edits, str | Path):
        return str(edits)
    if isinstance(edits, Edit | Mapping):
        raise InputError("edits: give a list of them, such as [{'prompt': ..., 'target': ...}]")
    return list(edits)
