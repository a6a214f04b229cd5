"""Jobs as data: what `scen submit` and Python write, and `python -m scen_jobs` reads.

A spec is a frozen pydantic model, one per kind of job, and JSON in between: `spec.to_json()`, and
`parse_spec` back. It names files by path or URI and has the settings that are given, not the
defaults. Light: neither torch nor Ray is imported.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

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
        """JSON of what is given, the same for specs of the same work."""
        found = self.model_dump(mode="json", exclude_unset=True)
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            # Of settings, one that is given stays given, be it the default.
            if found.get(name) == {} or (value == field.default and not isinstance(value, _Tree)):
                found.pop(name, None)
        return json.dumps(found | {"kind": self.kind}, sort_keys=True)  # type: ignore[attr-defined]


class _StoreSpec(_Spec):
    store: str
    """Folder or URI of the edited model."""
    settings: Config = Config()
    """The settings that are given; `cluster.*` are those of the workers."""
    settings_file: str | None = None
    """YAML file of settings on the driver's machine; `settings` win over it."""

    def config(self, stored_method: str | None = None) -> Config:
        """All settings; the method of a store that exists need not be given. Raises ConfigError."""
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
    """Name of the stream; None is from the file's name."""
    one_wave: bool = False
    """The whole file is one wave, whatever `waves.size` says."""
    data_format: DataFormat = "auto"
    """Form of the rows; auto is recognised."""
    limit: Positive | None = None
    """The first so many valid edits only."""
    strict: bool = False
    """Refuse the file for one bad row."""
    allow_null_text: bool = False
    """Take words such as nan, None and N/A for text, not for a missing value."""
    locality: str | None = None
    """File of prompts that no edit may change; None is a sample."""
    tracking: bool = True
    """Write to MLflow."""

    def config(self, stored_method: str | None = None) -> Config:
        """All settings. Raises ConfigError."""
        config = super().config(stored_method)
        if not self.one_wave:
            return config
        whole = config.waves.model_copy(update={"size": 2**31, "max_bytes": None})
        return config.model_copy(update={"waves": whole})


class DrainSpec(_StoreSpec):
    """Make waves of the edits that arrive over HTTP."""

    PATHS = ("store", "locality")

    kind: Literal["drain"] = "drain"
    stream: str = "online"
    """Whose inbox."""
    once: bool = False
    """End when nothing waits."""
    locality: str | None = None
    """File of prompts that no edit may change; None is a sample."""
    tracking: bool = True
    """Write to MLflow."""


class EvalSpec(_StoreSpec):
    """Evaluate a version of a store."""

    PATHS = ("store", "edits", "locality")

    kind: Literal["eval"] = "eval"
    version: int | None = None
    """A ledger version; None is the newest."""
    edits: str | None = None
    """File of the edits to evaluate; None is those of the ledger."""
    limit: Positive | None = None
    """The first so many edits only."""
    locality: str | None = None
    """File of prompts that no edit may change; None is a sample."""
    asking: bool = False
    """Also put each question in about twenty ways of asking."""
    else_rollback: int | Literal["previous"] | None = None
    """Version to roll back to where a figure is below `waves.min_reliability` or
    `waves.min_locality`; the job fails then."""

    def config(self, stored_method: str | None = None) -> Config:
        """All settings, with the method of the store. Raises ConfigError."""
        config = super().config(stored_method)
        return config.model_copy(update={"method": stored_method or config.method})


class CalibrateSpec(_Spec):
    """Fit the router and choose the settings of experts for a base."""

    PATHS = ("edits", "locality", "out")

    kind: Literal["calibrate"] = "calibrate"
    edits: tuple[str, ...] = Field(min_length=1)
    """Files of edits to learn from."""
    out: str
    """The profile: a .json file; a .safetensors file is written beside it."""
    locality: str | None = None
    """File of unrelated prompts; None is a sample."""
    base: BaseConfig = BaseConfig()
    """The base model."""
    max_false_activation: float | None = Field(None, gt=0, lt=1)
    """Share of prompts near an edit, but not about it, that may reach it."""
    search_places: bool = False
    """Search for the places where keys are read."""
    skip: int = Field(0, ge=0)
    """Leave out the first so many valid edits of each file."""
    limit: Positive | None = None
    """At most so many valid edits of each file."""
    tracking: bool = True
    """Write to MLflow."""
    cpus: float = Field(1, gt=0)
    """CPU cores of the worker."""
    gpus: float = Field(0, ge=0)
    """GPUs of the worker."""


class BenchmarkSpec(_Spec):
    """Compare editing methods side by side."""

    PATHS = ("file", "out")

    kind: Literal["benchmark"] = "benchmark"
    file: str
    """The benchmark, a YAML file on the driver's machine."""
    out: str
    """Folder or URI of rows and tables, which every node can write to."""
    sizes: tuple[Positive, ...] = ()
    """Numbers of edits, instead of those of the file."""
    methods: tuple[str, ...] = ()
    """Only these methods of the file."""
    threads: Positive | None = None
    """Threads of torch; None is the worker's CPU cores."""
    tracking: bool = True
    """Write to MLflow."""
    cpus: float = Field(1, gt=0)
    """CPU cores of each worker."""
    gpus: float = Field(0, ge=0)
    """GPUs of each worker."""


JobSpec = StreamSpec | DrainSpec | EvalSpec | CalibrateSpec | BenchmarkSpec
_ANY: TypeAdapter[JobSpec] = TypeAdapter(Annotated[JobSpec, Field(discriminator="kind")])


def parse_spec(text: str | bytes | Mapping[str, Any]) -> JobSpec:
    """The spec of a JSON text, or of the same as a dict. Raises ConfigError naming the field."""
    try:
        if isinstance(text, Mapping):
            return _ANY.validate_python(dict(text))
        return _ANY.validate_json(text)
    except ValidationError as err:
        raise ConfigError(f"spec: {'; '.join(map(_fault, err.errors()))}") from err


def _fault(fault: Any) -> str:
    # The first part is the kind: a discriminated union names it in front of the field.
    name = ".".join(str(part) for part in fault["loc"][1:])
    if fault["type"] == "missing":
        return f"{name}: is missing"
    return f"{name}: {fault['msg']}" if name else str(fault["msg"])
