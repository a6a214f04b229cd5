"""SCEN platform: continual editing of language models with customised expert networks.

The Python API is `scen.open` and the objects it returns (see `scen.api`), and `scen.submit`, which
runs a job spec on a Ray cluster (see `scen.pipeline.job_spec`). Names are imported on first use, so
that `import scen` stays light.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from scen.errors import (
    BaseError,
    ConfigError,
    ConflictError,
    InputError,
    IntegrityError,
    NotFoundError,
    ScenError,
)
from scen.records import Edit, Rephrase

if TYPE_CHECKING:
    from scen.api.snapshot import Snapshot
    from scen.api.store import Store, open  # noqa: A004
    from scen.cluster.jobs import Submitted
    from scen.cluster.submit import submit
    from scen.data.rows import Rejection
    from scen.evaluation.metrics import EvalReport
    from scen.ledger.view import LogEntry
    from scen.pipeline.apply import EditReport
    from scen.pipeline.change import Change
    from scen.pipeline.evaluate import Evaluation
    from scen.pipeline.forecast import Forecast
    from scen.pipeline.job_spec import (
        BenchmarkSpec,
        CalibrateSpec,
        DrainSpec,
        EvalSpec,
        StreamSpec,
    )
    from scen.snapshot.ask import Answer

__version__ = "0.1.0"
__all__ = [
    "Answer",
    "BaseError",
    "BenchmarkSpec",
    "CalibrateSpec",
    "Change",
    "ConfigError",
    "ConflictError",
    "DrainSpec",
    "Edit",
    "EditReport",
    "EvalReport",
    "EvalSpec",
    "Evaluation",
    "Forecast",
    "InputError",
    "IntegrityError",
    "LogEntry",
    "NotFoundError",
    "Rejection",
    "Rephrase",
    "ScenError",
    "Snapshot",
    "Store",
    "StreamSpec",
    "Submitted",
    "open",
    "submit",
]

_MODULES = {
    "Answer": "scen.snapshot.ask",
    "BenchmarkSpec": "scen.pipeline.job_spec",
    "CalibrateSpec": "scen.pipeline.job_spec",
    "Change": "scen.pipeline.change",
    "DrainSpec": "scen.pipeline.job_spec",
    "EditReport": "scen.pipeline.apply",
    "EvalReport": "scen.evaluation.metrics",
    "EvalSpec": "scen.pipeline.job_spec",
    "Evaluation": "scen.pipeline.evaluate",
    "Forecast": "scen.pipeline.forecast",
    "LogEntry": "scen.ledger.view",
    "Rejection": "scen.data.rows",
    "Snapshot": "scen.api.snapshot",
    "Store": "scen.api.store",
    "StreamSpec": "scen.pipeline.job_spec",
    "Submitted": "scen.cluster.jobs",
    "open": "scen.api.store",
    "submit": "scen.cluster.submit",
}

if not TYPE_CHECKING:  # else a type checker would accept any name

    def __getattr__(name: str) -> Any:
        if name not in _MODULES:
            raise AttributeError(f"module 'scen' has no attribute {name!r}")
        return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
