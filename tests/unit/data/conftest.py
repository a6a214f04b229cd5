"""Shared by the tests of ingestion."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scen.data import Rejection, Validator, ingest
from scen.records import Edit

Load = Callable[..., tuple[list[Edit], list[Rejection]]]


@pytest.fixture(scope="session")
def load() -> Load:
    """Everything that `ingest` makes of a file: the edits and the rejections."""

    def load_file(
        path: Path, validator: Validator | None = None, **options: Any
    ) -> tuple[list[Edit], list[Rejection]]:
        batches = list(ingest(path, validator or Validator(), **options))
        return [e for b in batches for e in b.edits], [r for b in batches for r in b.rejections]

    return load_file
