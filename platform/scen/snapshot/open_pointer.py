"""A version of a store, opened by a pointer to it and asked prompt by prompt."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from scen.base.load import Base
from scen.config import BaseConfig
from scen.editor.decode import EditedModel
from scen.errors import NotFoundError
from scen.fs import Storage
from scen.registry.ledger import Ledger, open_ledger
from scen.registry.pointer import SnapshotPointer, bank_rows
from scen.snapshot.ask import answer_prompt
from scen.snapshot.open import load_store_base, open_on
from scen.snapshot.rows import Place


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a prompt. `edit_id` is the edit that spoke, None where the base did; `score`
    that of the nearest edit, None where there are no edits; `version` the ledger's."""

    answer: str
    edit_id: str | None
    score: float | None
    version: int


@dataclass(frozen=True)
class PointedModel:
    """The edited model that a pointer means. `edit_ids` name its experts."""

    base: Base
    edited: EditedModel
    edit_ids: Sequence[str]
    version: int

    def ask(self, prompt: str, max_new_tokens: int) -> Reply:
        """The greedy answer. Raises ConfigError for a prompt without words."""
        _, told = answer_prompt(self.base, self.edited, prompt, max_new_tokens)
        expert, nearest = int(told.route.expert_B[0]), int(told.route.nearest_B[0])
        return Reply(
            self.base.template.decode(told.tokens[0]),
            self.edit_ids[expert] if expert >= 0 else None,
            float(told.route.score_B[0]) if nearest >= 0 else None,
            self.version,
        )


def open_pointer(
    pointer: SnapshotPointer,
    *,
    store: str | None = None,
    base: str | None = None,
    device: str = "auto",
    say: Callable[[str], None] = lambda _: None,
) -> PointedModel:
    """The model of a pointer. `store` and `base` say where they are now, if not where they were.

    Raises NotFoundError where there is no such store, version or bundle, BaseError where the base
    is another, IntegrityError where the version is not what was registered or a bundle is damaged.
    """
    storage = Storage(store or pointer.store)
    ledger = _ledger(storage)
    snapshot = ledger.snapshot(pointer.version)
    pointer.require(ledger.manifest, snapshot)  # before a base is loaded for nothing
    facts: dict[str, Any] = {name: pointer.base[name] for name in ("name", "template", "dtype")}
    wanted = BaseConfig(**facts | {"device": device} | ({"name": base} if base else {}))
    opened = open_on(storage, load_store_base(storage, wanted, say))
    rows = bank_rows(snapshot, pointer.held)
    edited = opened.loader.load([Place(row.bundle, row.row) for row in rows])
    return PointedModel(opened.base, edited, [row.edit_id for row in rows], pointer.version)


def _ledger(storage: Storage) -> Ledger:
    try:
        return open_ledger(storage)
    except NotFoundError as err:
        raise NotFoundError(
            f"store: there is no ledger at {storage.uri}. If it was moved, say where it is: "
            "mlflow.pyfunc.load_model(URI, model_config={'store': ...})"
        ) from err
