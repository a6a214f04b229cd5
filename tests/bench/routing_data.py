"""The edits, questions and raw keys that the benchmark of routing works on.

Suffixes: N prompts, K places, F numbers of a raw key.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from bench.report import emit, timed
from scen.calibration.fit_encoder import RouterKeys
from scen.calibration.router_set import Question, RouterSet, build_router_set, question_templates
from scen.data import Validator, ingest
from scen.data.read import read_prompts
from scen.errors import InputError
from scen.model.base import Base
from scen.model.keys import KeyPlace
from scen.records import Edit
from scen.routing.keys import read_prompt_keys

Read = Callable[[Sequence[str]], Tensor]


@dataclass(frozen=True)
class Stream:
    """A data set. `edits` are in the bank, `about` are the questions about them (none unrelated)
    with raw keys `key_NKF`; `unseen_NKF` are keys of prompts and rephrases of further edits."""

    name: str
    edits: tuple[Edit, ...]
    about: RouterSet
    key_NKF: Tensor
    unseen_NKF: Tensor

    @property
    def bank_NKF(self) -> Tensor:
        """The raw keys of the edits' own prompts."""
        return self.key_NKF[: len(self.edits)]


@dataclass(frozen=True)
class Material:
    """All keys of a run, float16 at `places`: the streams by name; `neutral`, the unrelated prompts
    that routers are fitted with; `unrelated_NKF`, others that they are tested with."""

    places: tuple[KeyPlace, ...]
    streams: dict[str, Stream]
    neutral: tuple[str, ...]
    neutral_NKF: Tensor
    unrelated_NKF: Tensor

    def at(self, places: tuple[KeyPlace, ...]) -> "Material":
        """The same at some of the places."""
        columns = [self.places.index(place) for place in places]
        streams = {
            name: replace(
                stream,
                key_NKF=stream.key_NKF[:, columns],
                unseen_NKF=stream.unseen_NKF[:, columns],
            )
            for name, stream in self.streams.items()
        }
        return Material(
            places,
            streams,
            self.neutral,
            self.neutral_NKF[:, columns],
            self.unrelated_NKF[:, columns],
        )


@dataclass(frozen=True)
class Files:
    """Where a run's records come from: `edits` by the name of the stream, with how many of them
    are in the bank at most; so many `unseen` ones behind them, at most a fifth of the file."""

    edits: dict[str, tuple[Path, int]]
    neutral: Path
    unrelated: Path
    unseen: int


def read_material(base: Base, places: tuple[KeyPlace, ...], files: Files) -> Material:
    """Reads all records and keys, each prompt once. Raises InputError where no edit is usable."""

    def read(texts: Sequence[str]) -> Tensor:
        key_NKF, seconds = timed(lambda: read_prompt_keys(base, places, texts))
        emit(bench="routing_read", prompts=len(texts), places=len(places), seconds=seconds,
             prompts_per_second=len(texts) / seconds)  # fmt: skip
        return key_NKF

    neutral = tuple(read_prompts(files.neutral))
    # A test on the very prompts of the fit would show nothing.
    unrelated = [text for text in read_prompts(files.unrelated) if text not in set(neutral)]
    both_NKF = read([*neutral, *unrelated])
    streams = {
        name: _read_stream(name, _read_edits(path), (limit, files.unseen), read)
        for name, (path, limit) in files.edits.items()
    }
    count = len(neutral)
    return Material(places, streams, neutral, both_NKF[:count], both_NKF[count:])


def _read_edits(path: Path) -> list[Edit]:
    return [edit for batch in ingest(path, Validator()) for edit in batch.edits]


def _read_stream(name: str, edits: list[Edit], sizes: tuple[int, int], read: Read) -> Stream:
    limit, unseen = sizes[0], min(sizes[1], len(edits) // 5)
    bank = edits[: min(limit, len(edits) - unseen)]
    if not bank:
        raise InputError(f"--{name}: the file has no usable edit; give one that has")
    about = build_router_set(bank, ())
    later = edits[len(bank) : len(bank) + unseen]
    strange = [text for e in later for text in (e.prompt, *(r.text for r in e.rephrases))]
    key_NKF = read([*about.texts, *strange])
    count = len(about.questions)
    return Stream(name, tuple(bank), about, key_NKF[:count], key_NKF[count:])


def training_keys(material: Material, parts: Sequence[tuple[str, Sequence[int]]]) -> RouterKeys:
    """What a router is fitted on: questions about some edits (rising indices) of some streams, and
    the neutral prompts. Nothing in it comes from the other edits."""
    questions: list[Question] = []
    keys: list[Tensor] = []
    relations: list[int] = []
    for name, edits in parts:
        stream = material.streams[name]
        rows = _rows_about(stream, edits)
        place = {edit: len(relations) + i for i, edit in enumerate(edits)}
        old = [stream.about.questions[row] for row in rows]
        questions += [replace(question, edit=place[question.edit]) for question in old]
        keys.append(stream.key_NKF[rows])
        first = max(relations, default=-1) + 1
        relations += [first + stream.about.relations[edit] for edit in edits]
    questions += [Question(text, "unrelated", -1, "given", False) for text in material.neutral]
    key_NKF = torch.cat([*keys, material.neutral_NKF])
    order = sorted(range(len(questions)), key=lambda i: questions[i].kind != "prompt")
    about = RouterSet(tuple(questions[i] for i in order), tuple(relations))
    return RouterKeys(about, material.places, key_NKF[order])


def _rows_about(stream: Stream, edits: Sequence[int]) -> list[int]:
    """The questions about these edits. Near misses that were made in the words of other edits
    are left out."""
    used = set(edits)
    groups = question_templates([stream.edits[edit] for edit in edits]).values()
    known = {text for group in groups for text in group}
    return [
        row
        for row, question in enumerate(stream.about.questions)
        if question.edit in used
        and (question.kind != "made_near_miss" or _template(stream, question) in known)
    ]


def _template(stream: Stream, question: Question) -> str:
    return question.text.replace(stream.edits[question.edit].subject or "", "{}")
