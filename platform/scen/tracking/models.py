"""The registered model of a store in MLflow: versions, aliases, and the logged model of each.

A logged model is a folder with code and a pointer to a version of the store. MLflow keeps it in the
experiment of the wave's run, or else in experiment `models/NAME`.
"""

import json
import re
import tempfile
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scen import __version__
from scen.errors import ConfigError
from scen.tracking.client import (
    default_artifact_root,
    is_server,
    mlflow_errors,
    open_client,
    open_experiment,
    quiet,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run
    from mlflow.entities.model_registry import RegisteredModel


VERSION_TAG, WAVE_TAG = "scen.version", "scen.wave"
STORE_TAG, STORE_ID_TAG = "scen.store", "scen.store_id"
ALIASES = ("champion", "previous", "candidate")


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """One version of a registered model.

    `version` is the ledger's; with `wave`, the key of a held wave, it is the version that promoting
    that wave would make. It is listed by `name` and `tags`. `code` is the file with the
    model's code, `pointer` locates the version of the store, and `places` are the settings that may
    be overridden when the model is loaded. `run` is the stream and key of the wave whose run shows
    how the version was made.
    """

    version: int
    wave: str | None
    name: str
    description: str
    tags: Mapping[str, str]
    code: Path
    pointer: Mapping[str, Any]
    places: Mapping[str, str]
    run: tuple[str, str] | None = None

    @property
    def all_tags(self) -> dict[str, str]:
        """The tags, with those used for look-up."""
        wave = {} if self.wave is None else {WAVE_TAG: self.wave}
        return {VERSION_TAG: str(self.version), **wave, **self.tags}


@dataclass(frozen=True, slots=True)
class RegisteredVersion:
    """A version `number` in MLflow: a version of the ledger or, with `wave`, the version that
    promoting this held wave would make."""

    number: int
    version: int
    wave: str | None = None


_EXAMPLE = "What is the capital of France?"
_MAX_NEW_TOKENS = 64


def log_model(client: "MlflowClient", registered_name: str, record: ModelRecord) -> "LoggedModel":
    """Log a model; its status is READY once it is complete. Raises MlflowException."""
    run = None if record.run is None else _wave_run(client, *record.run)
    # In the experiment of its run: the page of a run shows only models of its experiment.
    model = client.create_logged_model(
        _experiment(client, registered_name) if run is None else run.info.experiment_id,
        name=record.name,
        source_run_id=None if run is None else run.info.run_id,
        tags=record.all_tags,
        params={name: str(value) for name, value in record.pointer["base"].items()},
        model_type="scen",
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        _save_files(path, record, model)
        client.log_model_artifacts(model.model_id, str(path))
    if run is not None:
        _show_in_run(client, run.info.run_id, model.model_id)
    return client.finalize_logged_model(model.model_id, "READY")


def _save_files(path: Path, record: ModelRecord, model: "LoggedModel") -> None:
    """Write the files of a model into a new folder. Its code is imported but no model is loaded."""
    import mlflow
    from mlflow.models import Model
    from pandas import DataFrame  # type: ignore[import-untyped]

    with tempfile.TemporaryDirectory() as folder, quiet("mlflow"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow warns about its own type hints
        pointer = Path(folder) / "snapshot.json"
        pointer.write_text(json.dumps(record.pointer, ensure_ascii=False), encoding="utf-8")
        mlflow.pyfunc.save_model(
            path,
            python_model=str(record.code),
            artifacts={"snapshot": str(pointer)},
            model_config=dict(record.places),
            signature=_signature(),
            input_example=DataFrame({"prompt": [_EXAMPLE]}),
            # Given, because MLflow would infer them by loading the model.
            pip_requirements=[f"scen-platform=={__version__}", f"mlflow=={mlflow.__version__}"],
            mlflow_model=Model(model.artifact_location, model_id=model.model_id),
        )


def _wave_run(client: "MlflowClient", stream: str, wave_key: str) -> "Run | None":
    """The finished run of a wave, if it was tracked."""
    experiment = client.get_experiment_by_name(f"stream/{stream}")
    if experiment is None:
        return None
    wanted = f"tags.`edit.wave_key` = '{wave_key}' AND attributes.status = 'FINISHED'"
    runs = client.search_runs([experiment.experiment_id], wanted, max_results=1)
    return runs[0] if runs else None


def _experiment(client: "MlflowClient", registered_name: str) -> str:
    root = default_artifact_root(client.tracking_uri)
    location = None if root is None else str(root / "models" / registered_name)
    return open_experiment(client, f"models/{registered_name}", location)


def _show_in_run(client: "MlflowClient", run_id: str, model_id: str) -> None:
    from mlflow.entities import LoggedModelOutput

    client.log_outputs(run_id, [LoggedModelOutput(model_id, step=0)])


def _signature() -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

    # The input column has no name, so that a list of prompts is accepted.
    return ModelSignature(
        inputs=Schema([ColSpec("string")]),
        outputs=Schema(
            [
                ColSpec("string", "answer"),
                ColSpec("string", "edit_id", required=False),
                ColSpec("double", "score", required=False),
                ColSpec("long", "version"),
            ]
        ),
        params=ParamSchema([ParamSpec("max_new_tokens", "long", _MAX_NEW_TOKENS)]),
    )


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,127}")
_DESCRIPTION = """\
The edited model of a store of scen-platform: a version for each version of its ledger, and for \
waves that the gate holds. `champion` is the newest of the ledger, `previous` the one before it, \
`candidate` a held wave. `scen register` creates versions and sets aliases from the ledger, and \
corrects manual changes.

`mlflow.pyfunc.load_model("models:/{name}@champion").predict(["Who ...?"])`
"""


class ModelRegistry:
    """The registered model of a store, created if missing.

    `tags` are those of the model and include the id and the URI of the store. Without `name` it is
    named after the store, with a part of the store's id if another store has that name. Raises
    ConfigError if MLflow cannot be opened, or if `name` is invalid or taken by another store.
    The constructor and all methods raise ScenError for errors of MLflow.
    """

    def __init__(self, tracking_uri: str, tags: Mapping[str, str], name: str | None = None) -> None:
        if name is not None and not _NAME.fullmatch(name):
            raise ConfigError(
                f"--name: {name!r} must be letters, digits, spaces and ._- (128 at most), such as "
                "scen-news"
            )
        self.tracking_uri = tracking_uri
        self._client = open_client(tracking_uri)
        self._store_id = tags[STORE_ID_TAG]
        with self._translated():
            self.name = name or self._default_name(tags[STORE_TAG])
            self._open(tags)

    def versions(self) -> list[RegisteredVersion]:
        """The registered versions, oldest first. Of duplicates, which two concurrent processes can
        create, only the older."""
        with self._translated():
            distinct = {}
            for version in reversed(self._numbered()):
                distinct[version.version, version.wave] = version
            return sorted(distinct.values(), key=lambda version: version.number)

    def add(self, record: ModelRecord) -> RegisteredVersion:
        """Log a model and register it. A process killed in between leaves no version."""
        with self._translated(), quiet("mlflow"):
            model = log_model(self._client, self.name, record)
            # Only a server needs the id; with a database MLflow would look it up at its global URI.
            model_id = model.model_id if is_server(self.tracking_uri) else None
            made = self._client.create_model_version(
                self.name,
                model.artifact_location,
                run_id=model.source_run_id,
                tags=record.all_tags,
                description=record.description,
                model_id=model_id,
            )
            link = json.dumps([{"name": self.name, "version": str(made.version)}])
            self._client.set_logged_model_tags(model.model_id, {"mlflow.modelVersions": link})
        return RegisteredVersion(int(made.version), record.version, record.wave)

    def aliases(self) -> dict[str, int]:
        """Version numbers by alias."""
        with self._translated():
            aliases = self._client.get_registered_model(self.name).aliases
        return {str(alias): int(number) for alias, number in aliases.items()}

    def set_alias(self, alias: str, number: int | None) -> None:
        """Move an alias to a version; None removes it."""
        with self._translated():
            if number is None:
                self._client.delete_registered_model_alias(self.name, alias)
            else:
                self._client.set_registered_model_alias(self.name, alias, str(number))

    def _default_name(self, store: str) -> str:
        last = store.rstrip("/").rsplit("/", 1)[-1]
        stem = f"scen-{re.sub(r'[^A-Za-z0-9._-]+', '-', last).strip('-._')[:96] or 'store'}"
        own = f"{stem}-{self._store_id[:8]}"
        if self._find(own) is not None:
            return own
        existing = self._find(stem)
        return stem if existing is None or self._is_ours(existing) else own

    def _open(self, tags: Mapping[str, str]) -> None:
        model = self._find(self.name)
        if model is None:
            text = _DESCRIPTION.format(name=self.name)
            self._client.create_registered_model(self.name, dict(tags), text)
            return
        if not self._is_ours(model):
            owner = model.tags.get(STORE_TAG, "somebody else")
            raise ConfigError(f"--name: {self.name!r} is a model of {owner}; give another name")
        for tag, value in tags.items():
            if model.tags.get(tag) != value:
                self._client.set_registered_model_tag(self.name, tag, value)

    def _is_ours(self, model: "RegisteredModel") -> bool:
        """True also for a model without owner and versions, which a user created in advance."""
        owner = model.tags.get(STORE_ID_TAG)
        is_free = owner is None and not self._client.search_model_versions(
            f"name = '{model.name}'", max_results=1
        )
        return is_free or owner == self._store_id

    def _find(self, name: str) -> "RegisteredModel | None":
        models = self._client.search_registered_models(f"name = '{name}'", max_results=1)
        return models[0] if models else None

    def _numbered(self) -> list[RegisteredVersion]:
        versions: list[RegisteredVersion] = []
        token = None
        while True:
            page = self._client.search_model_versions(f"name = '{self.name}'", page_token=token)
            for item in page:
                version = item.tags.get(VERSION_TAG, "")
                if version.isdecimal() and item.status == "READY":
                    wave = item.tags.get(WAVE_TAG)
                    versions.append(RegisteredVersion(int(item.version), int(version), wave))
            token = page.token
            if not token:
                return sorted(versions, key=lambda version: version.number)

    def _translated(self) -> AbstractContextManager[None]:
        failure = f"models: MLflow at {self.tracking_uri} refused"
        return mlflow_errors(failure, "The ledger is unchanged; `scen register` tries again")
