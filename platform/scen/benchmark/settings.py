"""The settings and data of a benchmark, and its result rows on storage, from which it resumes."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from scen.benchmark.editors.fine_tuning import FtlEditor, LoraEditor
from scen.benchmark.editors.grace import GraceEditor
from scen.benchmark.editors.in_context import InContextEditor, NoEditor
from scen.benchmark.editors.scen_methods import Editor, PlatformEditor
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
    "grace": GraceEditor,
    "platform": PlatformEditor,
}
_SAMPLE = "sample:"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class MethodSettings(_Part):
    """One row of the table."""

    name: str
    """What the row is called."""
    editor: str
    """base, in-context, lora, ft-l, grace or platform."""
    settings: dict[str, Any] = {}
    """The editor's fields."""
    grid: dict[str, list[Any]] = {}
    """Values of fields that `--tune` tries, all combinations, on the validation edits."""

    def build(self, **others: Any) -> Editor:
        """The editor, some fields otherwise. Raises ConfigError naming the field."""
        if self.editor not in EDITORS:
            raise ConfigError(f"editor: {self.editor!r} is none of {', '.join(EDITORS)}")
        made = EDITORS[self.editor]
        given = {**self.settings, **others}
        known = [field.name for field in fields(made)]
        if wrong := set(given) - set(known):
            raise ConfigError(
                f"methods.{self.name}.settings: {', '.join(sorted(wrong))} is not a setting of "
                f"{self.editor}, which has {', '.join(known) or 'none'}"
            )
        editor: Editor = made(**given)
        return editor


class SliceSettings(_Part):
    """Some edits of the file."""

    skip: int = Field(0, ge=0)
    """Rows before them."""
    count: int = Field(ge=1)
    """How many."""


class BenchmarkSettings(_Part):
    """A benchmark."""

    name: str
    """Of the MLflow experiment `benchmark/NAME`, and of the files."""
    kind: Literal["questions", "passages"] = "questions"
    """questions are answered freely; passages are scored by perplexity."""
    edits: str
    """A file of edits; sample:NAME is one that ships."""
    unrelated: str
    """A file of prompts (questions) or texts (passages) that have nothing to do with the edits."""
    near: str | None = None
    """passages: a file of texts about the same subjects that must stay as they are."""
    base: BaseConfig = BaseConfig()
    sizes: list[int] = Field([200], min_length=1)
    """Numbers of edits; the first so many of the file. Each is edited and measured anew."""
    folds: int = Field(1, ge=1)
    """Parts in which probes are asked; at least the platform editor's `folds`."""
    same_kind: SliceSettings | None = None
    """Edits that are never made: their prompts must be answered as by the base."""
    validation: SliceSettings | None = None
    """Edits that `--tune` tries settings on."""
    unrelated_limit: int = Field(100, ge=1)
    """Unrelated prompts that are asked."""
    batch_size: int = Field(32, ge=1)
    """Prompts that are decoded side by side."""
    asking_limit: int = Field(0, ge=0)
    """Edits in other ways of asking, and tasks about them: so many, spread over all ways."""
    beam_limit: int = Field(0, ge=0)
    """So many edits, and their published rephrases, are also decoded as the paper does."""
    upstream_limit: int | None = Field(None, ge=1)
    """Texts, and edits whose clozes are taken, of the check of everything else; None: all."""
    latency_prompts: int = Field(12, ge=1)
    """Edited, and unrelated, questions that are asked one at a time, for the latency."""
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
    """A file, or a sample that ships. Raises NotFoundError."""
    if name.startswith(_SAMPLE):
        return str(sample_path(name.removeprefix(_SAMPLE)))
    return name


Progress = Callable[[str, int, int], None]  # step, done in this call, of how many


@dataclass(frozen=True)
class Row:
    """What a method came to with so many edits. `figures` are shares (0 to 1), perplexities and
    costs by name; `retention` is reliability by tenth of the stream, oldest first; `counts` are the
    probes behind the figures."""

    method: str
    size: int
    figures: dict[str, float]
    retention: list[float]
    counts: dict[str, int]


@dataclass(frozen=True)
class Material:
    """Edits, and prompts of questions that no edit is about."""

    edits: list[Edit]
    unrelated: list[str]
    same_kind: list[str]


def read_material(settings: BenchmarkSettings) -> Material:
    """Edits and prompts. Raises InputError where the file has too few."""
    edits = read_edits(settings)
    some = settings.same_kind
    same_kind = [edit.prompt for edit in cut(edits, some)] if some else []
    unrelated = read_prompts(data_path(settings.unrelated), settings.unrelated_limit)
    return Material(edits, unrelated, same_kind)


def read_edits(settings: BenchmarkSettings) -> list[Edit]:
    """All edits of the file. Raises InputError where they are too few, or used twice."""
    batches = ingest(data_path(settings.edits), Validator())
    edits = list(itertools.chain.from_iterable(batch.edits for batch in batches))
    most = max(settings.sizes)
    if most > len(edits):
        raise InputError(f"sizes: {settings.edits} has {len(edits)} edits, not {most}")
    for name in ("same_kind", "validation"):
        some: SliceSettings | None = getattr(settings, name)
        if some is not None and some.skip < most:
            raise InputError(f"{name}.skip: must be at least {most}, or these edits are made")
    return edits


def cut(edits: Sequence[Edit], some: SliceSettings) -> list[Edit]:
    """Some of the edits. Raises InputError where there are not so many."""
    found = list(edits[some.skip : some.skip + some.count])
    if len(found) < some.count:
        raise InputError(f"the file has {len(edits)} edits, not {some.skip + some.count}")
    return found


class RowStore:
    """Rows by what decides them; a new release measures them anew only in a new folder."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def once(self, content: Any, make: Callable[[], Row]) -> Row:
        """The row that `content` (JSON types) decides: the kept one, else made and kept."""
        path = f"rows/{digest_json(content)[:24]}.json"
        if not self._storage.exists(path):
            self._storage.put_json(path, asdict(make()))
        return Row(**self._storage.read_json(path))
