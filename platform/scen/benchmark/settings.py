"""What a benchmark compares, on what: one YAML file, such as configs/eval/zsre-200.yaml."""

from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from scen.benchmark.editors.fine_tuning import FtlEditor, LoraEditor
from scen.benchmark.editors.grace import GraceEditor
from scen.benchmark.editors.in_context import InContextEditor, NoEditor
from scen.benchmark.editors.scen_methods import Editor, PlatformEditor
from scen.config import BaseConfig, read_settings
from scen.errors import ConfigError
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
