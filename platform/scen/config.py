"""Settings: one frozen, typed tree, written by hand as YAML and saved resolved as JSON."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from scen.errors import ConfigError
from scen.method import METHODS, MethodName

OnConflict = Literal["refuse", "supersede", "quarantine"]


class _Part(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class BaseConfig(_Part):
    """The frozen base model."""

    name: str | None = None
    """smollm2-135m-instruct, a hub id, a local folder or a .gguf file. None: the store's own base,
    or smollm2-135m-instruct in a new store."""
    template: Literal["auto", "chat", "llama2-inst", "raw"] = "auto"
    """How prompts are formatted for the base."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number type of the weights; auto is bfloat16 if the hardware is fast at it."""
    device: str = "auto"
    """cpu, cuda, cuda:1 ...; auto is the first GPU, else the CPU."""


class ExpertConfig(_Part):
    """Stage 1: how the experts are trained."""

    layer: int | None = Field(None, ge=0)
    """Index of the edited layer; None is two thirds up."""
    steps: int = Field(25, ge=1)
    """Maximum steps of Adam per edit."""
    lr: float = Field(2e-2, gt=0)
    """Adam's learning rate."""
    rank: int = Field(4, ge=1)
    """Rank of a scen-lr expert."""
    bits: Literal[8, 16] = 16
    """scen-lr: bits of each number of a stored expert; 8 are int8 with a scale per rank, 16 are
    float16."""
    stop_loss: float = Field(0.003, ge=0)
    """Training of an edit stops below this loss (nats per token); 0 runs all steps."""
    other_ways: bool = True
    """scen-lr in a chat: an expert that misses its target when the question is asked in other ways
    (in capitals, among other sentences) is trained on those as well."""
    batch_size: int = Field(32, ge=1)
    """Edits per training batch."""


class KeyPlaceConfig(_Part):
    """Where a key is read."""

    layer: int = Field(ge=0)
    """Index of the layer whose down_proj input is read."""
    kind: Literal["mean", "last"]
    """mean: averaged over the user's own words; last: at the last prompt token."""


class RouterConfig(_Part):
    """Which expert applies to a prompt."""

    profile: str = "auto"
    """scen-lr: a file of `scen calibrate`; auto: the one that ships for the base, else the one that
    is made on first use of the base; shipped: only one that ships; none: no profile. Its `expert`
    settings apply where none are given. The environment variable SCEN_PROFILE replaces auto."""
    places: tuple[KeyPlaceConfig, ...] | None = Field(None, min_length=1)
    """scen-lr without a profile: where keys are read. None: the mean at a tenth and the last token
    at four fifths of the depth."""
    max_false_activation: float | None = Field(None, gt=0, lt=1)
    """scen-lr: share of prompts near an edit, but not about it, that may reach it; sets the
    threshold from calibration scores. None: the profile's bound."""
    raw_keys: bool = True
    """scen-lr: store the raw keys of edits, which any router can use; false: only the compact keys
    of the store's own router, which take fewer bytes and route alike."""
    threshold: float | None = None
    """scen-lr: score above which an edit applies, set by hand. None: from the bound, or without a
    profile a mean cosine of whitened keys of 0.6."""
    shrinkage: float = Field(0.1, gt=0)
    """scen-lr without a profile: floor of the whitening, relative to the mean variance of the
    sampled directions."""
    theta: float = Field(0.65, ge=0, le=1)
    """scen: sigmoid score above which an edit applies."""
    neuron_steps: int = Field(20, ge=1)
    """scen: steps per neuron."""
    neuron_lr: float = Field(1e-4, gt=0)
    """scen: learning rate of neurons."""
    neuron_optimizer: Literal["adam", "sgd"] = "adam"
    """scen: adam as in the published code; sgd, at another rate, as in its reproduction (arXiv
    2512.14395)."""

    @model_validator(mode="after")
    def _check_exclusive(self) -> "RouterConfig":
        if self.threshold is not None and self.max_false_activation is not None:
            raise ValueError("set threshold or max_false_activation, not both")
        if self.places is not None and self.profile not in ("auto", "shipped", "none"):
            raise ValueError("a profile has its own places: set profile or places, not both")
        return self


class EvaluationConfig(_Part):
    """How a wave is evaluated."""

    batch_size: int = Field(32, ge=1)
    """Prompts per decoding batch."""
    max_new_tokens: int = Field(64, ge=1)
    """Limit of a free answer; an answer with a known target is cut 8 tokens past it."""
    locality_tokens: int = Field(12, ge=1)
    """Tokens over which locality answers and logits are compared."""
    locality_limit: int = Field(100, ge=0)
    """Unrelated prompts from the locality file that are evaluated with a wave."""
    retention_limit: int = Field(32, ge=0)
    """Earlier edits, spread evenly over their age, that are asked again with a wave."""
    asking_share: float = Field(0.05, ge=0, le=1)
    """Probes in other ways of asking, relative to a wave's other probes."""


class WaveConfig(_Part):
    """How a stream is cut into waves, and when a wave is committed."""

    size: int = Field(200, ge=1)
    """Edits per wave."""
    max_bytes: int | None = Field(None, ge=1)
    """A wave ends before its edits, as JSON, exceed this; None: no limit."""
    max_age_s: float = Field(5.0, ge=0)
    """`scen drain`: maximum seconds that an edit waits for others."""
    on_conflict: OnConflict = "quarantine"
    """An edit that contradicts an earlier one: quarantine sets it aside, supersede replaces the
    earlier one, refuse ends the run there."""
    on_collision: Literal["report", "quarantine"] = "report"
    """A near-duplicate by the router's own keys: report notes it, quarantine sets it aside."""
    min_reliability: float | None = Field(None, ge=0, le=1)
    """A wave is held, not committed, if a smaller share of its own edits is answered exactly."""
    min_locality: float | None = Field(None, ge=0, le=1)
    """The same for the share of unrelated prompts whose answer stays the base's."""
    min_retention: float | None = Field(None, ge=0, le=1)
    """The same for the share of earlier edits, of those asked again, that are answered exactly."""
    why: str = ""
    """Reason, logged with each wave."""
    who: str | None = None
    """Author, logged with each wave; None: the system user."""


class ClusterConfig(_Part):
    """How a wave is distributed over Ray Train workers."""

    workers: int = Field(2, ge=1)
    """Workers of a wave."""
    min_workers: int | None = Field(None, ge=1)
    """Start with this many if no more are free (elastic); None: wait for all."""
    cpus_per_worker: float = Field(1, gt=0)
    """CPU cores per worker."""
    gpus_per_worker: float = Field(0, ge=0)
    """GPUs per worker."""
    strategy: Literal["auto", "replicate", "zero3"] = "auto"
    """replicate: the whole base in each worker. zero3: the base split over them (DeepSpeed). auto:
    zero3 if the base does not fit a worker's device."""
    deepspeed: str | dict[str, Any] | None = None
    """DeepSpeed configuration (stage 3): a JSON file, relative to the settings file, or its
    content. None: one that keeps little gathered."""
    max_failures: int = Field(3, ge=0)
    """How often the workers of a step may fail and be restarted."""
    timeout_s: float = Field(300, gt=0)
    """Seconds after which a rank that waits for the others gives up."""


class Config(_Part):
    """All settings of a run."""

    method: MethodName = "scen-lr"
    """scen-lr: low-rank experts and whitened keys. scen: the paper's procedure."""
    base: BaseConfig = BaseConfig()
    expert: ExpertConfig = ExpertConfig()
    router: RouterConfig = RouterConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    waves: WaveConfig = WaveConfig()
    cluster: ClusterConfig = ClusterConfig()


def load_config(
    path: str | Path | None = None,
    overrides: Sequence[str] = (),
    fixed: Mapping[str, Any] | None = None,
) -> Config:
    """Defaults of the method, then a YAML file, then `a.b=value` overrides, then `fixed` values.

    Raises ConfigError naming the field.
    """
    given: dict[str, Any] = {}
    if path is not None:
        given = _merge(given, read_settings(path))
    for text in overrides:
        given = _merge(given, _parse_override(text))
    given = _merge(given, dict(fixed or {}))
    method = METHODS.get(str(given.get("method")))
    if method is not None:
        given = _merge(dict(method.defaults), given)
    try:
        return Config.model_validate(given)
    except ValidationError as err:
        raise ConfigError(_explain(err)) from err


def read_settings(path: str | Path) -> dict[str, Any]:
    """The content of a settings file, not yet validated; a relative `cluster.deepspeed` path is
    resolved against the file's folder. Raises ConfigError."""
    try:
        value = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as err:
        raise ConfigError(f"--config: cannot read {path}: {err.strerror}") from err
    except (yaml.YAMLError, UnicodeDecodeError) as err:
        raise ConfigError(f"--config: {path} is not valid YAML: {err}") from err
    if not isinstance(value, dict):
        raise ConfigError(f"--config: {path} must hold settings such as `expert:`, not {value!r}")
    cluster = value.get("cluster")
    if isinstance(cluster, dict) and isinstance(cluster.get("deepspeed"), str):
        cluster["deepspeed"] = str(Path(path).resolve().parent / cluster["deepspeed"])
    return value


def _parse_override(text: str) -> dict[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ConfigError(f"--set: {text!r} is not of the form expert.steps=10")
    try:
        nested: Any = yaml.safe_load(value)
    except yaml.YAMLError as err:
        raise ConfigError(f"--set: the value of {text!r} is not valid YAML") from err
    for part in reversed(name.split(".")):
        nested = {part: nested}
    return dict(nested)


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for name, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(name), dict)
        merged[name] = _merge(merged[name], value) if both else value
    return merged


def _explain(err: ValidationError) -> str:
    lines = []
    for problem in err.errors():
        name = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            lines.append(f"{name}: is not a setting{_suggestion(problem['loc'])}")
        else:
            lines.append(f"{name}: {problem['msg']} (got {problem['input']!r})")
    return "config: " + "; ".join(lines)


def _suggestion(loc: tuple[int | str, ...]) -> str:
    """A hint for an unknown setting: a similar name at the same level, else the same name at
    another level; empty without a match."""
    *parents, unknown = map(str, loc)
    names = list(_names(Config))
    siblings = [name.split(".")[-1] for name in names if name.split(".")[:-1] == parents]
    similar = difflib.get_close_matches(unknown, siblings, n=1, cutoff=0.7)
    matches = [".".join((*parents, name)) for name in similar]
    matches = matches or [name for name in names if name.split(".")[-1] == unknown]
    return f"; did you mean {' or '.join(matches)}?" if matches else ""


def _names(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield prefix + name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _names(field.annotation, f"{prefix}{name}.")
