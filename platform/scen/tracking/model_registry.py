"""The registered model of one store in MLflow: its versions and their aliases."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from scen.errors import ConfigError, ScenError
from scen.tracking.logged_models import log_model
from scen.tracking.mlflow_client import open_client, quiet
from scen.tracking.model_record import (
    STORE_ID_TAG,
    STORE_TAG,
    VERSION_TAG,
    WAVE_TAG,
    ModelRecord,
    RegisteredVersion,
)

if TYPE_CHECKING:
    from mlflow.entities.model_registry import RegisteredModel

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,127}")
_DESCRIPTION = """\
The edited model of a store of scen-platform: a version for each version of its ledger, and for \
waves that the gate holds. `champion` is the newest of the ledger, `previous` the one before it, \
`candidate` a held wave. `scen register` makes versions and sets aliases from the ledger, and puts \
right what was changed by hand.

`mlflow.pyfunc.load_model("models:/{name}@champion").predict(["Who ...?"])`
"""


class ModelRegistry:
    """The registered model of a store, made where there is none.

    `tags` are those of the model, the id and the URI of the store among them. Without a name it is
    called after the store, with a part of its id where another store has that name. Raises
    ConfigError where MLflow cannot be opened, or a name that is given is wrong or of another
    model, ScenError where MLflow refuses. So do all methods.
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
        """What is registered, oldest first; of two that are the same, made by two processes at a
        time, the older."""
        with self._translated():
            found = {}
            for version in reversed(self._numbered()):
                found[version.version, version.wave] = version
            return sorted(found.values(), key=lambda version: version.number)

    def add(self, record: ModelRecord) -> RegisteredVersion:
        """Log a model and register it; both or, for a process that was killed, no version."""
        with self._translated(), quiet("mlflow"):
            model = log_model(self._client, self.name, record)
            # Only a server asks for the id; a database would look for it at a global address.
            is_served = self.tracking_uri.startswith(("http://", "https://"))
            made = self._client.create_model_version(
                self.name,
                model.artifact_location,
                run_id=model.source_run_id,
                tags=record.all_tags,
                description=record.description,
                model_id=model.model_id if is_served else None,
            )
            link = json.dumps([{"name": self.name, "version": str(made.version)}])
            self._client.set_logged_model_tags(model.model_id, {"mlflow.modelVersions": link})
        return RegisteredVersion(int(made.version), record.version, record.wave)

    def aliases(self) -> dict[str, int]:
        """Alias to number of the version."""
        with self._translated():
            aliases = self._client.get_registered_model(self.name).aliases
        return {str(alias): int(number) for alias, number in aliases.items()}

    def set_alias(self, alias: str, number: int | None) -> None:
        """Move an alias to a version, or with None take it away."""
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
        there = self._find(stem)
        return stem if there is None or self._is_ours(there) else own

    def _open(self, tags: Mapping[str, str]) -> None:
        found = self._find(self.name)
        if found is None:
            text = _DESCRIPTION.format(name=self.name)
            self._client.create_registered_model(self.name, dict(tags), text)
            return
        if not self._is_ours(found):
            owner = found.tags.get(STORE_TAG, "somebody else")
            raise ConfigError(f"--name: {self.name!r} is a model of {owner}; give another name")
        for tag, value in tags.items():
            if found.tags.get(tag) != value:
                self._client.set_registered_model_tag(self.name, tag, value)

    def _is_ours(self, found: "RegisteredModel") -> bool:
        """True also for a model without owner and versions, which somebody made beforehand."""
        owner = found.tags.get(STORE_ID_TAG)
        is_free = owner is None and not self._client.search_model_versions(
            f"name = '{found.name}'", max_results=1
        )
        return is_free or owner == self._store_id

    def _find(self, name: str) -> "RegisteredModel | None":
        found = self._client.search_registered_models(f"name = '{name}'", max_results=1)
        return found[0] if found else None

    def _numbered(self) -> list[RegisteredVersion]:
        found: list[RegisteredVersion] = []
        token = None
        while True:
            page = self._client.search_model_versions(f"name = '{self.name}'", page_token=token)
            for one in page:
                version = one.tags.get(VERSION_TAG, "")
                if version.isdecimal() and one.status == "READY":
                    wave = one.tags.get(WAVE_TAG)
                    found.append(RegisteredVersion(int(one.version), int(version), wave))
            token = page.token
            if not token:
                return sorted(found, key=lambda version: version.number)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        from mlflow.exceptions import MlflowException

        try:
            yield
        except (MlflowException, OSError) as err:
            raise ScenError(
                f"models: MLflow at {self.tracking_uri} refused ({err}). The ledger is as it was; "
                "`scen register` tries again"
            ) from err
