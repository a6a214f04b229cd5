"""Ways of asking: a question in the wordings of users, and tasks about it that do not ask it.

The wordings are in `samples/asking.yaml`, in two disjoint sets: routers are fitted on `fit`, all
metrics are measured on `test`.
"""

import functools
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import yaml

from scen.errors import ConfigError
from scen.samples import sample_path

WordingSet = Literal["fit", "test"]
Turn = tuple[str, str]  # role, content

_SPACES = ("\u00a0", "  ", "\t", "\u2009", "\u3000", "\u202f", "   ", "\n", "\r\n", "\u2028")
_HIDDEN = ("\u200b", "\u200e", "\u00ad", "\ufeff", "\u2060", "\u200c")
_SUBJECT_TASK = "task about the subject"
_NEIGHBOURS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")


@dataclass(frozen=True, slots=True)
class Topic:
    """A question, and its words that name the subject (None: unknown)."""

    question: str
    subject: str | None = None


@dataclass(frozen=True, slots=True)
class Rewording:
    """A message of a user and the turns before it. `way` names the wording; `wants_answer` is False
    if the message is a task about the question or its subject. `question` is the part of the
    message that is the question; empty if it does not contain it."""

    way: str
    text: str
    before: tuple[Turn, ...] = ()
    wants_answer: bool = True
    question: str = ""

    @property
    def is_about_subject(self) -> bool:
        """True for a task about the subject, which does not contain the question."""
        return self.way == _SUBJECT_TASK

    @property
    def messages(self) -> list[dict[str, str]]:
        """The whole conversation in the format of chat templates."""
        turns = [*self.before, ("user", self.text)]
        return [{"role": role, "content": content} for role, content in turns]


class Wordings:
    """One of the two sets of wordings, applied to questions. Wordings are
    drawn with the given generator, so the same seed gives the same messages."""

    def __init__(self, about: Mapping[str, Any]) -> None:
        self._ways: Mapping[str, Sequence[str]] = about["ways"]
        self._tasks: Mapping[str, Sequence[str]] = about["tasks"]
        self._subject_tasks: Sequence[str] = about["subject_tasks"]
        self._systems: Sequence[str] = about["systems"]
        self._turns: Sequence[Sequence[Sequence[str]]] = about["turns"]

    @property
    def ways(self) -> list[str]:
        """Names of the ways to ask a question."""
        return [*_SURFACE, *self._ways, "system prompt", "earlier turns"]

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks that do not ask the question."""
        return [f"task: {name}" for name in self._tasks] + [_SUBJECT_TASK]

    def part(self, index: int, count: int) -> "Wordings":
        """Every `count`-th wording of each way and task, from `index` on: parts are disjoint."""

        def subset(wordings: Sequence[Any]) -> Sequence[Any]:
            return wordings[index::count]

        return Wordings(
            {
                "ways": {way: subset(texts) for way, texts in self._ways.items()},
                "tasks": {task: subset(texts) for task, texts in self._tasks.items()},
                "subject_tasks": subset(self._subject_tasks),
                "systems": subset(self._systems),
                "turns": subset(self._turns),
            }
        )

    def ask(self, way: str, about: Topic, rng: random.Random) -> Rewording | None:
        """The question in a wording of a way or task; None if that is impossible, such as a typo
        inside an unknown subject. Raises ConfigError for an unknown way."""
        text = about.question
        if way in _SURFACE:
            changed = _SURFACE[way](about, rng)
            return None if changed is None else Rewording(way, changed, question=changed)
        if way in self._ways:
            before = self._earlier(rng) if way == "again" else ()
            return Rewording(way, _fill(rng.choice(self._ways[way]), text), before, question=text)
        if way == "system prompt":
            system = ("system", rng.choice(self._systems))
            return Rewording(way, text, (system,), question=text)
        if way == "earlier turns":
            return Rewording(way, text, self._earlier(rng), question=text)
        if way == _SUBJECT_TASK:
            if not about.subject:
                return None
            wording = rng.choice(self._subject_tasks).replace("{subject}", about.subject)
            return Rewording(way, wording, wants_answer=False)
        kind = way.removeprefix("task: ")
        if kind not in self._tasks:
            known = ", ".join([*self.ways, *self.tasks])
            raise ConfigError(f"way of asking: {way!r} is not one of {known}")
        wording = _fill(rng.choice(self._tasks[kind]), text)
        return Rewording(way, wording, wants_answer=False, question=text)

    def _earlier(self, rng: random.Random) -> tuple[Turn, ...]:
        pairs = rng.choice(self._turns)
        return tuple(
            turn for user, answer in pairs for turn in (("user", user), ("assistant", answer))
        )


@functools.cache
def wordings(which: WordingSet) -> Wordings:
    """The wordings shipped with the package, for fitting or testing."""
    text = sample_path("asking.yaml").read_text(encoding="utf-8")
    return Wordings(yaml.safe_load(text)[which])


def _fill(wording: str, question: str) -> str:
    return wording.replace("{question}", question)


def _spaced(about: Topic, rng: random.Random) -> str:
    """Another kind of white space everywhere, or in one place."""
    space = rng.choice(_SPACES)
    words = about.question.split(" ")
    if rng.random() < 0.5:
        return space.join(words)
    at = rng.randrange(len(words))
    return " ".join(words[: at + 1]) + space + " ".join(words[at + 1 :])


def _hidden(about: Topic, rng: random.Random) -> str:
    """One to three invisible characters."""
    text = about.question
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(text) + 1)
        text = text[:at] + rng.choice(_HIDDEN) + text[at:]
    return text


def _typo(word: str, rng: random.Random) -> str:
    """The word with one typo: a letter dropped, doubled, swapped or replaced by its neighbour."""
    at = rng.randrange(1, len(word) - 1)
    kind = rng.randrange(4)
    if kind == 0:
        return word[:at] + word[at + 1 :]
    if kind == 1:
        return word[:at] + word[at] + word[at:]
    if kind == 2 and word[at] != word[at + 1]:
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    row = next((keys for keys in _NEIGHBOURS if word[at].lower() in keys), None)
    if row is None:
        return word[:at] + word[at + 1 :]
    near = row.index(word[at].lower()) + rng.choice((-1, 1))
    return word[:at] + row[near % len(row)] + word[at + 1 :]


def _typo_at(about: Topic, rng: random.Random, *, inside: bool) -> str | None:
    begin = about.question.find(about.subject) if about.subject else -1
    if begin < 0:
        return None
    end = begin + len(about.subject or "")
    words = [
        m.span()
        for m in re.finditer(r"[^\W\d_]{4,}", about.question)
        if (begin <= m.start() < end) == inside
    ]
    if not words:
        return None
    a, b = rng.choice(words)
    return about.question[:a] + _typo(about.question[a:b], rng) + about.question[b:]


_SURFACE: Mapping[str, Callable[[Topic, random.Random], str | None]] = {
    "lower case": lambda about, _: about.question.lower(),
    "UPPER CASE": lambda about, _: about.question.upper(),
    "no mark": lambda about, _: about.question.rstrip("?!. "),
    "lower case, no mark": lambda about, _: about.question.lower().rstrip("?!. "),
    "typo outside the subject": lambda about, rng: _typo_at(about, rng, inside=False),
    "typo inside the subject": lambda about, rng: _typo_at(about, rng, inside=True),
    "white space": _spaced,
    "hidden characters": _hidden,
}

SURFACE_WAYS = tuple(_SURFACE)
"""Ways that change letters and white space of the question, without adding words."""
