"""What `scen eval` found, version by version."""

import re
from dataclasses import dataclass
from datetime import datetime

from scen.evaluation.metrics import EvalReport
from scen.fs import Storage

_NAME = re.compile(r"evaluations/v(\d+)-[0-9a-f]+\.jsonl")
_MOST = 20


@dataclass(frozen=True, slots=True)
class EvaluationFile:
    """The outcomes of an evaluation of a version of the store."""

    version: int
    measured_at: datetime
    path: str


@dataclass(frozen=True, slots=True)
class EvaluationFacts:
    """An evaluation, and what it comes to."""

    file: EvaluationFile
    report: EvalReport


def newest_evaluations(storage: Storage, version: int) -> list[EvaluationFile]:
    """The last 20 evaluations up to a version, the oldest version first."""
    files = {file: _NAME.fullmatch(file.path) for file in storage.files("evaluations")}
    found = [
        EvaluationFile(int(match[1]), file.written_at, file.path)
        for file, match in files.items()
        if match is not None and int(match[1]) <= version
    ]
    return sorted(found, key=lambda file: (file.version, file.measured_at))[-_MOST:]
