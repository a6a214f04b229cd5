"""The prompts that a router is fitted on: what must reach an edit, and what must not."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from scen.records import Edit, Rephrase, normalise

QuestionKind = Literal["prompt", "rephrase", "near_miss", "made_near_miss", "unrelated"]
_MADE = 3  # near misses made per edit


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt and what it is about: edit `edit` (index; -1: none of them).

    `is_subject`: it names the edit's subject, so that only the question may differ.
    """

    text: str
    kind: QuestionKind
    edit: int
    source: str
    is_subject: bool = True


@dataclass(frozen=True)
class RouterSet:
    """`questions` begin with the prompts of the E edits, in order. `relations` numbers what each
    edit asks about its subject."""

    questions: tuple[Question, ...]
    relations: tuple[int, ...]

    @property
    def num_edits(self) -> int:
        """E."""
        return len(self.relations)

    @property
    def texts(self) -> list[str]:
        """The prompts as text."""
        return [question.text for question in self.questions]


def build_router_set(edits: Sequence[Edit], unrelated: Sequence[str], seed: int = 0) -> RouterSet:
    """Prompts, rephrases, near misses given and made, and unrelated prompts.

    A near miss is made by putting an edit's subject into the question of another relation. A given
    one that does not name the subject is a near miss by its question. What asks for another edit is
    no near miss.
    """
    wanted = _Wanted(edits)
    names = {name: i for i, name in enumerate(dict.fromkeys(_relation(e) for e in edits))}
    questions = [Question(e.prompt, "prompt", i, "prompt") for i, e in enumerate(edits)]
    templates = question_templates(edits)
    draw = random.Random(seed)
    for i, edit in enumerate(edits):
        questions += [Question(r.text, "rephrase", i, r.source) for r in edit.rephrases]
        questions += [
            Question(text, "near_miss", i, "given", names_subject(text, edit))
            for text in edit.near_misses
            if not wanted.asks(text)
        ]
        open_relations = wanted.open_relations(edit, templates)
        made = make_near_misses(edit, open_relations, draw)
        questions += [
            Question(text, "made_near_miss", i, "made") for text in made if not wanted.asks(text)
        ]
    questions += [Question(text, "unrelated", -1, "given", False) for text in unrelated]
    return RouterSet(tuple(questions), tuple(names[_relation(e)] for e in edits))


def join_router_sets(parts: Sequence[RouterSet]) -> RouterSet:
    """One set of several, whose edits and relations have nothing in common by name: two sources
    may name one relation differently, so that neither's templates make near misses of the other."""
    questions: list[Question] = []
    relations: list[int] = []
    for part in parts:
        first_edit, first_relation = len(relations), max(relations, default=-1) + 1
        questions += [
            replace(q, edit=q.edit + first_edit) if q.edit >= 0 else q for q in part.questions
        ]
        relations += [first_relation + relation for relation in part.relations]
    questions.sort(key=lambda question: question.kind != "prompt")
    return RouterSet(tuple(questions), tuple(relations))


def question_templates(edits: Sequence[Edit]) -> dict[str, list[str]]:
    """By relation, the questions of the edits with `{}` in the place of the subject."""
    templates: dict[str, list[str]] = {}
    for edit in edits:
        if edit.subject and edit.subject in edit.prompt:
            text = edit.prompt.replace(edit.subject, "{}")
            templates.setdefault(_relation(edit), []).append(text)
    return templates


class _Wanted:
    """What the edits ask: their prompts and rephrases, and the relations asked of each subject."""

    def __init__(self, edits: Sequence[Edit]) -> None:
        self._texts = {
            normalise(text) for e in edits for text in (e.prompt, *(r.text for r in e.rephrases))
        }
        self._relations: dict[str, set[str]] = {}
        for edit in edits:
            self._relations.setdefault(normalise(edit.subject or ""), set()).add(_relation(edit))

    def asks(self, text: str) -> bool:
        """True where a text is the prompt or a rephrase of an edit."""
        return normalise(text) in self._texts

    def open_relations(self, edit: Edit, templates: dict[str, list[str]]) -> dict[str, list[str]]:
        """The templates of relations that no edit asks of this edit's subject."""
        taken = self._relations[normalise(edit.subject or "")]
        return {name: texts for name, texts in templates.items() if name not in taken}


def make_near_misses(
    edit: Edit, templates: dict[str, list[str]], draw: random.Random, count: int = _MADE
) -> list[str]:
    """Questions about the edit's subject from the templates of other relations; none where it has
    no subject."""
    others = [name for name in templates if name != _relation(edit)]
    if not edit.subject or not others:
        return []
    weights = [len(templates[name]) for name in others]
    picked = draw.choices(others, weights, k=count)
    made = [draw.choice(templates[name]).replace("{}", edit.subject) for name in picked]
    return list(dict.fromkeys(made))


def make_rephrases(edit: Edit, templates: dict[str, list[str]], count: int = 2) -> list[Rephrase]:
    """The edit's question in other edits' words for the same relation; then in plain frames."""
    found: list[str] = []
    if edit.subject:
        same = dict.fromkeys(templates.get(_relation(edit), ()))
        found = [text.replace("{}", edit.subject) for text in same]
    bare = edit.prompt.rstrip("?.! ")
    found += [f"Please tell me: {edit.prompt}", f"{bare}, do you know?", bare.lower()]
    other = [text for text in dict.fromkeys(found) if normalise(text) != normalise(edit.prompt)]
    return [Rephrase(text, "made") for text in other[:count]]


def names_subject(text: str, edit: Edit) -> bool:
    """True where the text names the edit's subject."""
    return bool(edit.subject) and normalise(edit.subject or "") in normalise(text)


def _relation(edit: Edit) -> str:
    return edit.relation or f"relation of {edit.id}"
