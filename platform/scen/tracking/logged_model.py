"""The code of a logged model: MLflow keeps this file (models from code; nothing is pickled).

It comes with `snapshot.json`, a pointer to one version of a store (`scen.ledger.manifest`):
experts and neurons stay in the store's safetensors bundles, so that a version of 100,000 edits is
as small as one of ten. Loading needs scen-platform, the store and the base, and checks both: the
base by its fingerprint, the version by its digest, each bundle by its sha256. If they have
moved, or to use another device, override the settings:

    mlflow.pyfunc.load_model("models:/scen-my-store@champion", model_config={"store": "s3://..."})

It answers a list of prompts, or a table with a column `prompt`, with the columns `answer`,
`edit_id` (None if the base answered), `score` (of the nearest edit) and `version` (the ledger's).
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel
from pandas import DataFrame  # type: ignore[import-untyped]

from scen.errors import ConfigError, InputError
from scen.ledger.manifest import SnapshotPointer


class SnapshotModel(PythonModel):
    """A version of a store for MLflow."""

    def load_context(self, context: Any) -> None:
        """Open the store. Raises as `open_pointer` does."""
        # Imported here, so that a model can be logged without torch.
        from scen.snapshot.open import open_pointer

        path = Path(context.artifacts["snapshot"])
        pointer = SnapshotPointer.from_dict(json.loads(path.read_text(encoding="utf-8")))
        place = context.model_config
        self._model = open_pointer(
            pointer, store=place["store"], base=place["base"], device=place["device"]
        )

    def predict(
        self, context: Any, model_input: DataFrame, params: dict[str, Any] | None = None
    ) -> DataFrame:
        """A row for each prompt; answers have at most `max_new_tokens` (in `params`) tokens. Raises
        InputError for a table without a column `prompt`, ConfigError for `max_new_tokens` < 1."""
        assert params is not None  # the model's signature has a default for each
        length = int(params["max_new_tokens"])
        if length < 1:
            raise ConfigError(f"max_new_tokens: {length} is not a whole number of at least 1")
        replies = [asdict(self._model.ask(prompt, length)) for prompt in _prompts(model_input)]
        columns = ["answer", "edit_id", "score", "version"]
        return DataFrame(replies, columns=columns, dtype=object)  # else None is NaN: no JSON


def _prompts(table: DataFrame) -> list[str]:
    # MLflow turns a list into a table with the column 0, and keeps only one column of a table.
    names = [name for name in ("prompt", 0) if name in table.columns]
    if not names:
        raise InputError(
            f"prompt: no column has this name (the first is {table.columns[0]!r}). Give a list of "
            'prompts, or a table of which "prompt" is the first or only column'
        )
    return [str(prompt) for prompt in table[names[0]]]


set_model(SnapshotModel())
