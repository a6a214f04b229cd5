"""What MLflow's model registry is told of a version of a store."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VERSION_TAG, WAVE_TAG = "scen.version", "scen.wave"
STORE_TAG, STORE_ID_TAG = "scen.store", "scen.store_id"
ALIASES = ("champion", "previous", "candidate")


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """One version of a registered model.

    `version` is the ledger's; where `wave` is the key of a held wave, what that would make of it.
    `name` and `tags` are what it is listed by. `code` is the file that answers, `pointer` what it
    is told of the store, and `places` what may be given otherwise when the model is loaded. `run`
    is the stream and the key of the wave whose run shows how it came to be.
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
        """The tags, with those that it is found by."""
        wave = {} if self.wave is None else {WAVE_TAG: self.wave}
        return {VERSION_TAG: str(self.version), **wave, **self.tags}


@dataclass(frozen=True, slots=True)
class RegisteredVersion:
    """What is in MLflow under a `number`: a version of the ledger or, with `wave`, what that held
    wave would make of it."""

    number: int
    version: int
    wave: str | None = None
