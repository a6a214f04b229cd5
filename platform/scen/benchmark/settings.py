"""The settings and data of a benchmark, and its stored result rows, from which it resumes."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from scen.benchmark.editors.codebooks import GraceEditor, HorenEditor
from scen.benchmark.editors.fine_tuning import FtlEditor, LoraEditor, UltraEditor
from scen.benchmark.editors.in_context import InContextEditor, NoEditor
from scen.benchmark.editors.locate import AlphaEditEditor, MemitEditor
from scen.benchmark.editors.scen_methods import Editor, PlatformEditor
from scen.benchmark.editors.wise import WiseEditor
from scen.config import BaseConfig, read_settings
from scen.data import Validator, ingest
from scen.data.read import read_prompts
from scen.errors import ConfigError, InputError
from scen.fs import Storage
from scen.records import Edit, digest_json
from scen.samples import sample_path

EDITORS: dict[str, Any] = {
    "base": NoEditor,
    "in-context": InContextEditor,
    "lora": LoraEditor,
    "ft-l": FtlEditor,
    "memit": MemitEditor,
    "alphaedit": AlphaEditEditor,
    "ultraedit": UltraEditor,
    "grace": GraceEditor,
    "horen": HorenEditor,
    "wise": WiseEditor,
    "platform": PlatformEditor,
}
_SAMPLE = "sample:"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class MethodSettings(_Part):
    """One row of the table."""

    name: str
    """Name of the row."""
    editor: str
    """base, in-context, lora, ft-l, memit, alphaedit, ultraedit, grace, horen, wise or platform."""
    settings: dict[str, Any] = {}
    """The editor's fields."""
    grid: dict[str, list[Any]] = {}
    """Values of fields for `--tune`, which tries all combinations on the validation edits."""

    def build(self, **others: Any) -> Editor:
        """The editor, with some fields overridden. Raises ConfigError naming an unknown editor or
        field."""
        if self.editor not in EDITORS:
            raise ConfigError(f"editor: {self.editor!r} is none of {', '.join(EDITORS)}")
        editor_class = EDITORS[self.editor]
        given = {**self.settings, **others}
        known = [field.name for field in fields(editor_class)]
        if wrong := set(given) - set(known):
            raise ConfigError(
                f"methods.{self.name}.settings: {', '.join(sorted(wrong))} is not a setting of "
                f"{self.editor}, which has {', '.join(known) or 'none'}"
            )
        editor: Editor = editor_class(**given)
        return editor


class SliceSettings(_Part):
    """A slice of the file's edits."""

    skip: int = Field(0, ge=0)
    """Edits before the slice."""
    count: int = Field(ge=1)
    """Edits in the slice."""


class BenchmarkSettings(_Part):
    """A benchmark."""

    name: str
    """Name of the MLflow experiment (`benchmark/NAME`) and of the files."""
    kind: Literal["questions", "passages"] = "questions"
    """questions: answered freely; passages: scored by perplexity."""
    edits: str
    """A file of edits; sample:NAME is a packaged sample."""
    unrelated: str
    """A file of prompts (questions) or texts (passages) unrelated to the edits."""
    near: str | None = None
    """passages: a file of texts about the same subjects, whose likelihood must not change."""
    base: BaseConfig = BaseConfig()
    sizes: list[int] = Field([200], min_length=1)
    """Numbers of edits: the first N of the file, each N edited and measured independently."""
    folds: int = Field(1, ge=1)
    """Folds of the probes; at least the platform editor's `folds`."""
    same_kind: SliceSettings | None = None
    """Edits that are never applied: the answers to their prompts must stay the base's."""
    validation: SliceSettings | None = None
    """Edits on which `--tune` tries settings."""
    unrelated_limit: int = Field(100, ge=1)
    """Maximum number of unrelated prompts."""
    batch_size: int = Field(32, ge=1)
    """Prompts per batch."""
    asking_limit: int = Field(0, ge=0)
    """Number of probes that ask edits in other ways or set tasks about them, over all ways."""
    portability_limit: int = Field(0, ge=0)
    """Number of questions of each kind whose answers follow from an edit: with another name of its
    subject, from target to subject, and one hop further."""
    beam_limit: int = Field(0, ge=0)
    """Number of edits, and of published rephrases, also decoded by beam search as in the paper."""
    upstream_limit: int | None = Field(None, ge=1)
    """Number of texts, and of edits whose clozes are used, in the upstream test; None: all."""
    latency_prompts: int = Field(12, ge=1)
    """Number of edited and of unrelated questions answered one at a time to measure latency."""
    methods: list[MethodSettings] = Field(min_length=1)


def load_benchmark(path: Path) -> BenchmarkSettings:
    """The benchmark of a YAML file. Raises ConfigError naming the field."""
    try:
        settings = BenchmarkSettings.model_validate(read_settings(path))
    except ValidationError as err:
        fault = err.errors()[0]
        place = ".".join(map(str, fault["loc"]))
        raise ConfigError(f"{path}: {place}: {fault['msg']}") from err
    for method in settings.methods:
        method.build()
    return settings


def data_path(name: str) -> str:
    """The path of a file or packaged sample. Raises NotFoundError for an unknown sample."""
    if name.startswith(_SAMPLE):
        return str(sample_path(name.removeprefix(_SAMPLE)))
    return name


Progress = Callable[[str, int, int], None]  # step, units done in this call, units in total


@dataclass(frozen=True)
class Row:
    """The result of a method with `size` edits. `figures` are shares (0 to 1), perplexities and
    costs by name; `retention` is reliability by tenth of the stream, oldest first; `counts` are the
    numbers of probes behind the figures."""

    method: str
    size: int
    figures: dict[str, float]
    retention: list[float]
    counts: dict[str, int]


@dataclass(frozen=True)
class Material:
    """Edits, and prompts that no edit is about."""

    edits: list[Edit]
    unrelated: list[str]
    same_kind: list[str]


def read_material(settings: BenchmarkSettings) -> Material:
    """Edits and prompts. Raises InputError if the file has too few."""
    edits = read_edits(settings)
    unseen = settings.same_kind
    same_kind = [edit.prompt for edit in slice_edits(edits, unseen)] if unseen else []
    unrelated = read_prompts(data_path(settings.unrelated), settings.unrelated_limit)
    return Material(edits, unrelated, same_kind)


def read_edits(settings: BenchmarkSettings) -> list[Edit]:
    """All edits of the file. Raises InputError if there are too few, or if a slice overlaps the
    edits that are applied."""
    batches = ingest(data_path(settings.edits), Validator())
    edits = list(itertools.chain.from_iterable(batch.edits for batch in batches))
    most = max(settings.sizes)
    if most > len(edits):
        raise InputError(f"sizes: {settings.edits} has {len(edits)} edits, not {most}")
    for name in ("same_kind", "validation"):
        part: SliceSettings | None = getattr(settings, name)
        if part is not None and part.skip < most:
            raise InputError(
                f"{name}.skip: must be at least {most}, or the slice overlaps the applied edits"
            )
    return edits


def slice_edits(edits: Sequence[Edit], part: SliceSettings) -> list[Edit]:
    """A slice of the edits. Raises InputError if there are too few."""
    chosen = list(edits[part.skip : part.skip + part.count])
    if len(chosen) < part.count:
        raise InputError(f"the file has {len(edits)} edits, not {part.skip + part.count}")
    return chosen


class RowStore:
    """Rows stored by a digest of their inputs. The digest does not cover the release: use a new
    folder to measure with another one."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def once(self, content: Any, make: Callable[[], Row]) -> Row:
        """The stored row for `content` (JSON types), or else the row of `make`, which is stored."""
        path = f"rows/{digest_json(content)[:24]}.json"
        if not self._storage.exists(path):
            self._storage.put_json(path, asdict(make()))
        return Row(**self._storage.read_json(path))
