"""The outcomes of probes as a store keeps them: one JSON line each."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from scen.errors import IntegrityError
from scen.evaluation.metrics import EvalReport, Outcome, summarise
from scen.evaluation.probes import Probe
from scen.fs import Storage

Rows = Sequence[Mapping[str, Any]]

_PROBE = frozenset(field.name for field in fields(Probe))


def read_rows(storage: Storage, path: str) -> list[dict[str, Any]]:
    """The outcomes of an evaluation, by the names of `Probe` and `Outcome`. Raises NotFoundError,
    IntegrityError where the file is cut off or changed."""
    try:
        return [json.loads(line) for line in storage.read(path).splitlines()]
    except ValueError as err:
        raise IntegrityError(
            f"{storage.child_uri(path)} is cut off or changed ({err}): restore it from a backup, "
            "or delete it to have a report without it"
        ) from err


def summarise_rows(rows: Rows) -> EvalReport:
    """The figures of an evaluation."""
    outcomes = []
    for row in rows:
        probe = Probe(**{name: value for name, value in row.items() if name in _PROBE})
        rest = {name: value for name, value in row.items() if name not in _PROBE}
        outcomes.append(Outcome(probe, **rest))
    return summarise(outcomes)
