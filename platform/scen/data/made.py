"""Made edits of the kinds of real ones: other subjects in a data set's own wordings.

Subjects are recombined from the names that the data set asks the same thing about, targets are
taken from the same relation, so that prompts look like the data set's. Made facts are not true.
"""

import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from itertools import count, islice
from pathlib import Path
from uuid import uuid4

import pyarrow.parquet as pq

from scen.data.rows import EDIT_SCHEMA, edits_to_table
from scen.errors import ConfigError, InputError
from scen.records import Edit, Rephrase, edit_to_dict
from scen.text import normalise

_BLANK = "{}"
_TWO_RELATIONS = 0.1  # share of subjects that are edited in two relations
_TRIES = 8  # names of so many parts before one of more parts is tried
_DISTINCT = 4  # parts up to which the words of a name differ
_BATCH = 10_000  # edits per row group


@dataclass(frozen=True)
class Wording:
    """A prompt and its rephrases, with `{}` in place of the subject."""

    prompt: str
    rephrases: tuple[Rephrase, ...]


@dataclass
class Relation:
    """What a data set asks about some subjects. `kind` is the name of the data set."""

    kind: str
    name: str
    wordings: list[Wording] = field(default_factory=list)
    subjects: list[str] = field(default_factory=list)
    targets: list[str] = field(default_factory=list)


def read_relations(kind: str, edits: Iterable[Edit]) -> list[Relation]:
    """The relations of a data set that are asked about at least two subjects. Edits whose prompt
    does not name their subject are left out, and so are such rephrases."""
    relations: dict[str, Relation] = {}
    for edit in edits:
        subject = edit.subject or ""
        if not subject or edit.relation is None or subject not in edit.prompt:
            continue
        if _BLANK in edit.prompt:
            continue
        relation = relations.setdefault(edit.relation, Relation(kind, edit.relation))
        relation.wordings.append(_wording(edit, subject))
        relation.subjects.append(subject)
        relation.targets.append(edit.target)
    return [relation for relation in relations.values() if len(set(relation.subjects)) > 1]


def make_edits(like: Mapping[str, Sequence[Edit]], seed: int = 0) -> Iterator[Edit]:
    """Edits without end, of the same kinds as those of each data set and as frequent by relation.

    No two have the same subject and relation, none has a subject of the data sets, and all prompts
    differ. Each has the rephrases of a real wording, and two near misses: the same question about a
    subject without edits, and another question about its own subject. The same data and seed give
    the same edits. Raises InputError if a data set asks fewer than two things about two subjects.
    """
    relations: list[Relation] = []
    for kind, edits in like.items():
        read = read_relations(kind, edits)
        if len(read) < 2:
            raise InputError(
                f"{kind}: made edits need real ones with a subject that their prompt names, in at "
                f"least two relations with two subjects each; it has {len(read)} such relations"
            )
        relations += read
    names = [edit.subject or "" for edits in like.values() for edit in edits]
    return _Maker(relations, seed, {normalise(name) for name in names}).edits()


def write_edits(edits: Iterable[Edit], path: Path) -> int:
    """Write edits to a .jsonl or .parquet file, which appears when it is complete; returns how many
    there were. Memory does not grow with their number. Raises ConfigError for another ending."""
    writers = {".jsonl": _write_jsonl, ".parquet": _write_parquet}
    if path.suffix not in writers:
        raise ConfigError(f"--out: {path} must end in .jsonl or .parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{uuid4().hex}.part")
    try:
        written = writers[path.suffix](edits, part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return written


@dataclass
class _Maker:
    """Draws edits; remembers names and prompts that are taken."""

    relations: list[Relation]
    seed: int
    taken: set[str]

    def __post_init__(self) -> None:
        self._rng = random.Random(self.seed)
        self._weights = [len(relation.wordings) for relation in self.relations]
        self._prompts: set[bytes] = set()

    def edits(self) -> Iterator[Edit]:
        numbers = count()
        while True:
            [first] = self._rng.choices(self.relations, self._weights)
            subject, asked = self._new_name(first), [first]
            if self._rng.random() < _TWO_RELATIONS:
                asked += self._others(asked)
            for relation in asked:
                made = self._edit(relation, subject, asked)
                if self._is_new(made.prompt):
                    yield replace(made, id=f"made-{self.seed}-{next(numbers):07d}")

    def _edit(self, relation: Relation, subject: str, asked: Sequence[Relation]) -> Edit:
        rng = self._rng
        wording, near = rng.choice(relation.wordings), rng.choice(relation.wordings)
        fill = subject.join
        near_misses = [self._new_name(relation).join(near.prompt.split(_BLANK))]
        for other in self._others(asked):
            near_misses.append(fill(rng.choice(other.wordings).prompt.split(_BLANK)))
        return Edit(
            id="",
            prompt=fill(wording.prompt.split(_BLANK)),
            target=rng.choice(relation.targets),
            subject=subject,
            rephrases=tuple(
                Rephrase(fill(r.text.split(_BLANK)), r.source) for r in wording.rephrases
            ),
            near_misses=tuple(near_misses),
            source=f"made-{relation.kind}",
            metadata={"relation": relation.name},
        )

    def _others(self, asked: Sequence[Relation]) -> list[Relation]:
        """Another relation of the same data set; empty if all are asked."""
        kind = asked[0].kind
        pairs = zip(self.relations, self._weights, strict=True)
        open_ = [(r, w) for r, w in pairs if r.kind == kind and r not in asked]
        if not open_:
            return []
        return self._rng.choices([r for r, _ in open_], [w for _, w in open_])

    def _new_name(self, relation: Relation) -> str:
        """A name that no subject has: the beginning of one, the end of another, and words of
        further ones between them where such names run out. It is taken from now on."""
        for parts in count(2):
            for _ in range(_TRIES):
                chosen = [self._rng.choice(relation.subjects) for _ in range(parts)]
                head, *middle, tail = chosen
                between = [self._rng.choice(words.split()) for words in middle]
                name = join_names(head, tail, between)
                if parts <= _DISTINCT and repeats_a_word(name):
                    continue
                if (key := normalise(name)) not in self.taken:
                    self.taken.add(key)
                    return name
        raise AssertionError  # names of more parts never run out

    def _is_new(self, prompt: str) -> bool:
        digest = blake2b(normalise(prompt).encode(), digest_size=8).digest()
        if digest in self._prompts:
            return False
        self._prompts.add(digest)
        return True


def join_names(head: str, tail: str, between: Sequence[str] = ()) -> str:
    """The first half of one name, words between, and the last half of another."""
    first, last = head.split(), tail.split()
    return " ".join([*first[: -(-len(first) // 2)], *between, *last[len(last) // 2 :]])


def repeats_a_word(name: str) -> bool:
    """True if a word occurs twice, as in hardly any real name."""
    words = normalise(name).split()
    return len(set(words)) < len(words)


def _wording(edit: Edit, subject: str) -> Wording:
    rephrases = [
        Rephrase(r.text.replace(subject, _BLANK), r.source)
        for r in edit.rephrases
        if subject in r.text and _BLANK not in r.text
    ]
    return Wording(edit.prompt.replace(subject, _BLANK), tuple(rephrases))


def _write_jsonl(edits: Iterable[Edit], path: Path) -> int:
    written = 0
    with path.open("w", encoding="utf-8") as file:
        for edit in edits:
            file.write(json.dumps(edit_to_dict(edit), ensure_ascii=False) + "\n")
            written += 1
    return written


def _write_parquet(edits: Iterable[Edit], path: Path) -> int:
    written, left = 0, iter(edits)
    with pq.ParquetWriter(path, EDIT_SCHEMA) as writer:
        while batch := list(islice(left, _BATCH)):
            writer.write_table(edits_to_table(batch))
            written += len(batch)
    return written
