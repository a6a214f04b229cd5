"""Options shared by several commands, and the settings built from them."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cache, partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Group, Parameter

if TYPE_CHECKING:
    from scen.config import Config
    from scen.pipeline.job_spec import StreamSpec

# As in scen.config and scen.pipeline.job_spec, which import pydantic: too slow for `--help`.
Method = Literal["scen-lr", "scen"]
OnConflict = Literal["quarantine", "supersede", "refuse"]
DataFormat = Literal["auto", "scen", "zsre", "knowedit", "counterfact", "hallucination"]
Template = Literal["auto", "chat", "llama2-inst", "raw"]
DType = Literal["auto", "float32", "bfloat16", "float16"]


def room(title: str, place: int) -> tuple[App, Group, Callable[..., Any]]:
    """An app for a group of commands, the group (number `place` in the overview), and the decorator
    that adds a command to it."""
    app, group = App(), _group(title, place)
    return app, group, partial(app.command, group=group)


@cache
def _group(title: str, place: int) -> Group:
    """The same object for all modules that share a group, as cyclopts requires."""
    return Group(title, sort_key=place)


def between(low: float, high: float = float("inf"), what: str = "a number") -> Parameter:
    """A parameter for numbers from `low` to `high`."""
    bounds = f"{low:g} or more" if high == float("inf") else f"{low:g} to {high:g}"

    def check(_: Any, value: float | tuple[float, ...] | None) -> None:
        for number in value if isinstance(value, tuple) else (value,):
            if number is not None and not low <= number <= high:
                raise ValueError(f"{number:g} is not {what} of {bounds}")

    return Parameter(validator=check)


def parsed(read: Callable[[str], Any]) -> Parameter:
    """A parameter whose value `read` parses from one token; it raises ValueError if invalid."""
    return Parameter(converter=lambda _, tokens: read(tokens[0].value))


def read_moment(text: str) -> datetime:
    """A date or time in ISO format; UTC unless it has a time zone. Raises ValueError."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as err:
        example = "such as 2026-11-01 or 2026-11-01T12:00+01:00"
        raise ValueError(f"{text!r} is not a date or time, {example}") from err
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def read_share(text: str) -> float:
    """A number between 0 and 1. Raises ValueError."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise ValueError(f"{text!r} is not between 0 and 1, such as 0.02")
    return value


def read_target(text: str) -> int | str:
    """A version, or `previous`. Raises ValueError."""
    if text == "previous":
        return text
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{text!r} is neither a version nor previous") from None


POSITIVE = between(1, what="a whole number")
Store = Annotated[
    str, Parameter(name="--store", metavar="URI", help="folder or URI of the edited model")
]
Json = Annotated[bool, Parameter(name="--json", help="one JSON object on stdout")]
Version = Annotated[
    int | None, Parameter(name="--version", metavar="V", help="ledger version (default: newest)")
]
Limit = Annotated[int | None, POSITIVE, Parameter(name="--limit", metavar="N")]
Why = Annotated[str, Parameter(name="--why", metavar="TEXT", help="the reason, kept in the log")]
Who = Annotated[
    str | None,
    Parameter(name="--who", metavar="NAME", help="kept in the log (default: your user name)"),
]
DryRun = Annotated[
    bool, Parameter(name="--dry-run", help="show what would be done, without doing it")
]
Locality = Annotated[
    str | None,
    Parameter(metavar="FILE", help="prompts that no edit may change (default: a sample)"),
]
NoTracking = Annotated[bool, Parameter(name="--no-tracking", help="do not write to MLflow")]
MaxNewTokens = Annotated[
    int,
    POSITIVE,
    Parameter(name="--max-new-tokens", metavar="N", help="maximum length of an answer"),
]


@Parameter(name="*", group="Base model")
@dataclass(frozen=True, kw_only=True)
class LoadingOptions:
    """How a base model is loaded."""

    template: Template | None = None
    """how prompts are formatted for the base"""
    dtype: DType | None = None
    """number type of the weights"""
    device: str | None = None
    """cpu, cuda, cuda:1 ... (default: the first GPU, else the CPU)"""

    def settings(self, name: str | None = None) -> dict[str, Any]:
        """The given options as `base` settings."""
        return given(name=name, template=self.template, dtype=self.dtype, device=self.device)


@Parameter(name="*", group="Base model")
@dataclass(frozen=True, kw_only=True)
class BaseOptions:
    """The base model and how it is loaded."""

    base: Annotated[
        str | None,
        Parameter(metavar="NAME", help="smollm2-135m-instruct, a hub id, a folder or a .gguf file "
                  "(default: the store's own, else smollm2-135m-instruct)"),
    ] = None  # fmt: skip
    loading: LoadingOptions = field(default_factory=LoadingOptions)

    def settings(self) -> dict[str, Any]:
        """The given options as `base` settings."""
        return self.loading.settings(self.base)


@Parameter(name="*", group="Settings")
@dataclass(frozen=True, kw_only=True)
class SettingOptions:
    """Settings by file and by name."""

    config: Annotated[str | None, Parameter(metavar="FILE")] = None
    """YAML file of settings (see configs/)"""
    overrides: Annotated[tuple[str, ...], Parameter(name="--set", metavar="A.B=VALUE")] = ()
    """one setting, such as expert.steps=15; may be repeated"""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class WaveOptions:
    """The store, and how edits are cut into waves, trained, evaluated and logged."""

    store: Store
    method: Method | None = None
    """scen-lr: low-rank experts, whitened keys (default); scen: the paper's procedure"""
    profile: Annotated[
        str | None,
        Parameter(metavar="FILE", help="profile that `scen calibrate` wrote for the base (default: "
                  "auto, the one that ships for it, else one that is made on its first use; "
                  "shipped: only one that ships; none: no profile)"),
    ] = None  # fmt: skip
    wave_size: Annotated[int | None, POSITIVE, Parameter(metavar="N")] = None
    """edits per wave (default: 200)"""
    on_conflict: Annotated[
        OnConflict | None,
        Parameter(help="an edit that contradicts an earlier one (same prompt, or same subject and "
                  "relation, and another target): quarantine it (default), let it supersede the "
                  "earlier one, or refuse its wave and stop"),
    ] = None  # fmt: skip
    why: Annotated[str | None, Parameter(metavar="TEXT")] = None
    """the reason, kept in the log with each wave"""
    who: Who = None
    locality: Locality = None
    no_tracking: NoTracking = False

    def settings(self, max_age_s: float | None = None) -> dict[str, Any]:
        """The given options as settings."""
        waves = given(
            size=self.wave_size,
            max_age_s=max_age_s,
            on_conflict=self.on_conflict,
            why=self.why,
            who=self.who,
        )
        router = given(profile=self.profile)
        return given(method=self.method, router=router, waves=waves)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class RowOptions:
    """How the rows of a file of edits are read."""

    data_format: Annotated[DataFormat, Parameter(name="--format")] = "auto"
    """format of the rows (auto: detected)"""
    allow_null_text: bool = False
    """treat words such as nan, None and N/A as text, not as missing values"""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class EditOptions:
    """The options of a run on a file of edits."""

    waves: WaveOptions
    limit: Limit = None
    """only the first N valid edits"""
    stream: Annotated[str | None, Parameter(metavar="NAME")] = None
    """name of the stream (default: from the file's name)"""
    strict: bool = False
    """refuse the file if any row is invalid"""
    rows: RowOptions = field(default_factory=RowOptions)
    base: BaseOptions = field(default_factory=BaseOptions)
    settings: SettingOptions = field(default_factory=SettingOptions)

    def spec(self, file: str) -> "StreamSpec":
        """The job spec of these options. Raises ConfigError."""
        from scen.pipeline.job_spec import StreamSpec

        return StreamSpec(
            edits=file,
            store=self.waves.store,
            stream=self.stream,
            limit=self.limit,
            strict=self.strict,
            **asdict(self.rows),
            locality=self.waves.locality,
            tracking=not self.waves.no_tracking,
            settings=read_config(self.settings, base=self.base.settings(), **self.waves.settings()),
        )


def read_config(settings: SettingOptions | None = None, **fixed: Any) -> "Config":
    """The settings file, then `--set`, then flags, later ones win. Raises ConfigError."""
    from scen.config import load_config

    settings = settings or SettingOptions()
    present = {name: value for name, value in fixed.items() if value not in ({}, None)}
    return load_config(settings.config, settings.overrides, present)


def given(**values: Any) -> dict[str, Any]:
    """The values that are not None."""
    return {name: value for name, value in values.items() if value is not None}
