"""The data of a benchmark, and its result rows on storage: a stopped benchmark resumes there."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from scen.benchmark.settings import BenchmarkSettings, SliceSettings, data_path
from scen.data import Validator, ingest
from scen.data.read import read_prompts
from scen.errors import InputError
from scen.fs import Storage
from scen.records import Edit, digest_json

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
