"""Job specs, written by `scen submit` or Python and read by `python -m scen_jobs`.

A spec is a frozen pydantic model, one per kind of job, serialised as JSON by `spec.to_json()` and
parsed by `parse_spec`. It names files by path or URI and contains only explicit settings, no
defaults. Imports neither torch nor Ray.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from scen.config import BaseConfig, Config, load_config
from scen.errors import ConfigError

DataFormat = Literal["auto", "scen", "zsre", "knowedit", "counterfact", "hallucination"]
_Tree = (BaseConfig, Config)
Positive = Annotated[int, Field(ge=1)]


class _Spec(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    PATHS: ClassVar[tuple[str, ...]] = ()
    """Fields that hold a path or URI, or several."""

    def to_json(self) -> str:
        """JSON of the fields that differ from their defaults; equal for specs of the same work."""
        fields = self.model_dump(mode="json", exclude_unset=True)
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            # Explicit settings are kept even if they equal the default.
            if fields.get(name) == {} or (value == field.default and not isinstance(value, _Tree)):
                fields.pop(name, None)
        return json.dumps(fields | {"kind": self.kind}, sort_keys=True)  # type: ignore[attr-defined]


class _StoreSpec(_Spec):
    store: str
    """Folder or URI of the edited model."""
    settings: Config = Config()
    """Explicit settings; `cluster.*` configures the workers."""
    settings_file: str | None = None
    """YAML file of settings on the driver's machine; `settings` override it."""

    def config(self, stored_method: str | None = None) -> Config:
        """All settings; the method defaults to that of an existing store. Raises ConfigError."""
        fixed = self.settings.model_dump(exclude_unset=True)
        config = load_config(self.settings_file, fixed=fixed)
        if stored_method is None or "method" in config.model_fields_set:
            return config
        return load_config(self.settings_file, fixed=fixed | {"method": stored_method})


class StreamSpec(_StoreSpec):
    """Train, evaluate and commit the edits of a file, wave by wave."""

    PATHS = ("edits", "store", "locality")

    kind: Literal["stream"] = "stream"
    edits: str
    """The file, by path or URI."""
    stream: str | None = None
    """Name of the stream; None: from the file's name."""
    one_wave: bool = False
    """Run the whole file as one wave; overrides `waves.size`."""
    data_format: DataFormat = "auto"
    """Format of the rows; auto detects it."""
    limit: Positive | None = None
    """Only the first N valid edits."""
    strict: bool = False
    """Refuse the file if any row is invalid."""
    allow_null_text: bool = False
    """Treat words such as nan, None and N/A as text, not as missing values."""
    locality: str | None = None
    """File of prompts that no edit may change; None: a sample."""
    tracking: bool = True
    """Track in MLflow."""

    def config(self, stored_method: str | None = None) -> Config:
        """All settings. Raises ConfigError."""
        config = super().config(stored_method)
        if not self.one_wave:
            return config
        whole = config.waves.model_copy(update={"size": 2**31, "max_bytes": None})
        return config.model_copy(update={"waves": whole})


class DrainSpec(_StoreSpec):
    """Train, evaluate and commit the edits that arrive over HTTP."""

    PATHS = ("store", "locality")

    kind: Literal["drain"] = "drain"
    stream: str = "online"
    """The stream whose inbox is drained."""
    once: bool = False
    """End when the inbox is empty."""
    locality: str | None = None
    """File of prompts that no edit may change; None: a sample."""
    tracking: bool = True
    """Track in MLflow."""


class EvalSpec(_StoreSpec):
    """Evaluate a version of a store."""

    PATHS = ("store", "edits", "locality")

    kind: Literal["eval"] = "eval"
    version: int | None = None
    """A ledger version; None: the newest."""
    edits: str | None = None
    """File of the edits to evaluate; None: those of the ledger."""
    data_format: DataFormat = "auto"
    """Format of its rows; auto detects it."""
    allow_null_text: bool = False
    """Treat words such as nan, None and N/A in it as text, not as missing values."""
    limit: Positive | None = None
    """Only the first N edits."""
    locality: str | None = None
    """File of prompts that no edit may change; None: a sample."""
    asking: bool = False
    """Also ask each question in about twenty other ways."""
    else_rollback: int | Literal["previous"] | None = None
    """Version to roll back to if a figure is below `waves.min_reliability` or
    `waves.min_locality`; the job then fails."""

    def config(self, stored_method: str | None = None) -> Config:
        """All settings, with the method of the store. Raises ConfigError."""
        config = super().config(stored_method)
        return config.model_copy(update={"method": stored_method or config.method})


class CalibrateSpec(_Spec):
    """Fit the router and choose the settings of experts for a base; or with `store`, fit the router
    of a store on its own edits and move the store to it."""

    PATHS = ("edits", "locality", "out", "store")

    kind: Literal["calibrate"] = "calibrate"
    edits: tuple[str, ...] = ()
    """Files of edits to calibrate on; with `store` or `quick`, in addition to those used anyway."""
    data_format: DataFormat = "auto"
    """Format of their rows; auto detects it."""
    allow_null_text: bool = False
    """Treat words such as nan, None and N/A in them as text, not as missing values."""
    out: str | None = None
    """The profile: a .json file; a .safetensors file is written next to it."""
    store: str | None = None
    """Folder or URI of the store whose router is fitted again."""
    quick: bool = False
    """A quick calibration, as on the first use of a base."""
    dry_run: bool = False
    """With `store`: measure, without moving the store to the new router."""
    force: bool = False
    """With `store`: move the store to the new router even if it is not better."""
    why: str = ""
    """With `store`: the reason, kept in the log."""
    who: str | None = None
    """With `store`: the author, kept in the log; None: the system user."""
    locality: str | None = None
    """File of unrelated prompts; None: a sample."""
    base: BaseConfig = BaseConfig()
    """The base model."""
    max_false_activation: float | None = Field(None, gt=0, lt=1)
    """Share of prompts near an edit, but not about it, that may reach it."""
    search_places: bool = False
    """Search for the best places to read keys."""
    skip: int = Field(0, ge=0)
    """Leave out the first N valid edits of each file."""
    limit: Positive | None = None
    """At most N valid edits of each file."""
    tracking: bool = True
    """Track in MLflow."""
    cpus: float = Field(1, gt=0)
    """CPU cores of the worker."""
    gpus: float = Field(0, ge=0)
    """GPUs of the worker."""

    @model_validator(mode="after")
    def _check_one_aim(self) -> "CalibrateSpec":
        if (self.out is None) == (self.store is None):
            raise ValueError("out: give either this, for the profile of a base, or store")
        if self.store is None and not (self.edits or self.quick):
            raise ValueError("edits: give at least one file, or quick")
        return self


class BenchmarkSpec(_Spec):
    """Compare editing methods side by side."""

    PATHS = ("file", "out")

    kind: Literal["benchmark"] = "benchmark"
    file: str
    """The benchmark, a YAML file on the driver's machine."""
    out: str
    """Folder or URI for rows and tables, writable by every node."""
    sizes: tuple[Positive, ...] = ()
    """Numbers of edits; override those of the file."""
    methods: tuple[str, ...] = ()
    """Only these methods of the file."""
    threads: Positive | None = None
    """Threads of torch; None: the worker's CPU cores."""
    tracking: bool = True
    """Track in MLflow."""
    cpus: float = Field(1, gt=0)
    """CPU cores of each worker."""
    gpus: float = Field(0, ge=0)
    """GPUs of each worker."""


JobSpec = StreamSpec | DrainSpec | EvalSpec | CalibrateSpec | BenchmarkSpec
_ANY: TypeAdapter[JobSpec] = TypeAdapter(Annotated[JobSpec, Field(discriminator="kind")])


def parse_spec(text: str | bytes | Mapping[str, Any]) -> JobSpec:
    """Parse a spec from JSON text or a dict. Raises ConfigError naming the field."""
    try:
        if isinstance(text, Mapping):
            return _ANY.validate_python(dict(text))
        return _ANY.validate_json(text)
    except ValidationError as err:
        raise ConfigError(f"spec: {'; '.join(map(_describe, err.errors()))}") from err


def _describe(problem: Any) -> str:
    # The first part of the location is the kind, added by the discriminated union.
    name = ".".join(str(part) for part in problem["loc"][1:])
    if problem["type"] == "missing":
        return f"{name}: is missing"
    return f"{name}: {problem['msg']}" if name else str(problem["msg"])
