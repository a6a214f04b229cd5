"""The prompts on which a router is fitted: those that must reach an edit, and those that must not.

Each edit's question is also put in several ways of asking, and tasks about the question or its
subject, which must reach no edit, are added.
"""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from scen.data.asking import SURFACE_WAYS, Rewording, Topic, Turn, Wordings
from scen.data.made import join_names, repeats_a_word
from scen.records import Edit, Rephrase
from scen.text import normalise

QuestionKind = Literal[
    "prompt",
    "rephrase",
    "asked",
    "near_miss",
    "made_near_miss",
    "namesake",
    "task",
    "subject_task",
    "unrelated",
]
ASKS: tuple[QuestionKind, ...] = ("prompt", "rephrase", "asked")
"""Kinds of questions that must reach their edit."""

_GIVEN, _MADE = 3, 2  # near misses per edit, given and made
_NAMESAKES = 3  # per edit
_REPHRASES = 3  # per edit, published ones first
_WAYS = 4  # ways of asking with words around the question, per edit
_MANY_FORMS = ("order", "quote", "frame", "lead")  # many wordings each: sampled twice as often
_TYPOS = ("typo outside the subject", "typo inside the subject")
_TASKS = 2  # per edit
_PARTS = 2  # of the wordings: adjacent edits share none


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt and the edit it is about: `edit` (index; -1: none).

    `is_subject`: it names the edit's subject, so that only the question may differ. `before` are
    the earlier turns of the conversation, `asked` the question within the text (empty if it is the
    whole text).
    """

    text: str
    kind: QuestionKind
    edit: int
    source: str
    is_subject: bool = True
    before: tuple[Turn, ...] = ()
    asked: str = ""

    @property
    def messages(self) -> list[dict[str, str]]:
        """The whole conversation, in chat-template form."""
        return Rewording(self.source, self.text, self.before).messages


@dataclass(frozen=True)
class RouterSet:
    """`questions` begin with the prompts of the E edits, in order. `relations` is the relation
    (index) that each edit asks about."""

    questions: tuple[Question, ...]
    relations: tuple[int, ...]

    @property
    def num_edits(self) -> int:
        """E, the number of edits."""
        return len(self.relations)

    @property
    def texts(self) -> list[str]:
        """The prompts as text, without earlier turns."""
        return [question.text for question in self.questions]


@dataclass(frozen=True)
class Asking:
    """How questions are asked in other ways. Adjacent edits (counted from `first`) use disjoint
    halves of `wordings`, so that cross-fitted routers are tested on unseen wordings. Without
    `has_roles`, no question has earlier turns."""

    wordings: Wordings
    first: int = 0
    has_roles: bool = True

    def of(self, index: int) -> Wordings:
        """The wordings for the edit at this index."""
        return self.wordings.part((self.first + index) % _PARTS, _PARTS)


def build_router_set(
    edits: Sequence[Edit], unrelated: Sequence[str], seed: int = 0, asking: Asking | None = None
) -> RouterSet:
    """Prompts, rephrases, given and made near misses, and unrelated prompts; with `asking` also
    edits, near misses and unrelated prompts in other ways of asking, and tasks about the edits.

    A near miss is made by putting an edit's subject into the question of another relation. A given
    one that does not name the subject is a near miss by its question. A text that asks for any edit
    is never a near miss or an unrelated prompt.
    """
    covered = _Covered(edits)
    names = {name: i for i, name in enumerate(dict.fromkeys(_relation(e) for e in edits))}
    questions = [Question(e.prompt, "prompt", i, "prompt") for i, e in enumerate(edits)]
    templates = question_templates(edits)
    rng = random.Random(seed)
    for i, edit in enumerate(edits):
        rephrases = sorted(edit.rephrases, key=lambda r: r.source != "orig")[:_REPHRASES]
        questions += [Question(r.text, "rephrase", i, r.source) for r in rephrases]
        near = [text for text in edit.near_misses if not covered.asks(text)][:_GIVEN]
        questions += [
            Question(text, "near_miss", i, "given", names_subject(text, edit)) for text in near
        ]
        open_relations = covered.open_relations(edit, templates)
        made = make_near_misses(edit, open_relations, rng)
        questions += [
            Question(text, "made_near_miss", i, "made") for text in made if not covered.asks(text)
        ]
        namesakes = make_namesakes(edit, covered.subjects, templates, rng)
        questions += [Question(text, "namesake", i, "made", False) for text in namesakes]
        if asking is not None:
            words = [edit.prompt, edit.prompt, *[r.text for r in rephrases[:1]]]
            asked = _other_ways(Topic(rng.choice(words), edit.subject), asking.of(i), rng)
            asked += _tasks(Topic(rng.choice(words), edit.subject), asking.of(i), rng)
            questions += _questions(asked, asking, i)
            questions += _near_in_other_ways("near_miss", near, edit, i, asking, rng)
            questions += _near_in_other_ways("namesake", namesakes, edit, i, asking, rng)
    negatives = [text for text in unrelated if not covered.asks(text)]
    questions += [Question(text, "unrelated", -1, "given", False) for text in negatives]
    if asking is not None:
        for i, text in enumerate(negatives[::2]):
            asked = _in_ways(1, Topic(text), asking.of(i), rng)
            questions += [
                replace(q, kind="unrelated", edit=-1, is_subject=False)
                for q in _questions(asked, asking, -1)
            ]
    return RouterSet(tuple(questions), tuple(names[_relation(e)] for e in edits))


def _other_ways(about: Topic, ways: Wordings, rng: random.Random) -> list[Rewording]:
    """A question in other_slip ways of asking: with words around it, and with surface slips, mostly
    typos, since other_slip slips hardly change the keys of the routed form."""
    other_slip = rng.choice([way for way in SURFACE_WAYS if way not in _TYPOS])
    slips = [ways.ask(way, about, rng) for way in (*_TYPOS, other_slip)]
    return _in_ways(_WAYS, about, ways, rng) + [asked for asked in slips if asked is not None]


def _in_ways(count: int, about: Topic, ways: Wordings, rng: random.Random) -> list[Rewording]:
    around = [way for way in ways.ways if way not in SURFACE_WAYS]
    weights = [2 if way in _MANY_FORMS else 1 for way in around]
    chosen = rng.sample(around, count, counts=weights)
    asked = [ways.ask(way, about, rng) for way in chosen]
    return [a for a in asked if a is not None]


def _tasks(about: Topic, ways: Wordings, rng: random.Random) -> list[Rewording]:
    """Tasks about a question or its subject that do not ask the question."""
    asked = [ways.ask(task, about, rng) for task in rng.sample(ways.tasks, _TASKS)]
    return [a for a in asked if a is not None]


def _near_in_other_ways(
    kind: QuestionKind,
    near: Sequence[str],
    edit: Edit,
    index: int,
    asking: Asking,
    rng: random.Random,
) -> list[Question]:
    """With probability one half, one of an edit's near misses or namesakes with words around it."""
    if not near or rng.random() < 0.5:
        return []
    text = rng.choice(near)
    asked = _in_ways(1, Topic(text), asking.of(index), rng)
    named = names_subject(text, edit)
    return [replace(q, kind=kind, is_subject=named) for q in _questions(asked, asking, index)]


def _questions(asked: Sequence[Rewording], asking: Asking, edit: int) -> list[Question]:
    return [_question(a, edit) for a in asked if asking.has_roles or not a.before]


def _question(asked: Rewording, edit: int) -> Question:
    if asked.wants_answer:
        kind: QuestionKind = "asked"
    else:
        kind = "subject_task" if asked.is_about_subject else "task"
    return Question(asked.text, kind, edit, asked.way, before=asked.before, asked=asked.question)


def join_router_sets(parts: Sequence[RouterSet]) -> RouterSet:
    """Join sets without matching their relations by name: two sources may name the same relation
    differently, so neither's templates make near misses of the other's edits."""
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
    """The edits' prompts by relation, with `{}` in place of the subject."""
    templates: dict[str, list[str]] = {}
    for edit in edits:
        if edit.subject and edit.subject in edit.prompt:
            text = edit.prompt.replace(edit.subject, "{}")
            templates.setdefault(_relation(edit), []).append(text)
    return templates


_WEIGHTS: Mapping[str, float] = {
    "rephrase": 3.0,
    "asked": 3.0,
    "near_miss": 1.5,
    "made_near_miss": 0.7,
    "namesake": 0.7,
    "task": 1.2,
    "subject_task": 0.3,
}
"""How often a kind of question is kept when a set is thinned, per edit."""


def thin_router_set(whole: RouterSet, count: int, seed: int = 0) -> RouterSet:
    """The prompts of all edits and the unrelated prompts, and a sample of the other questions,
    about `count` in all. The sample is spread evenly over the edits and weighted by kind."""
    rng = random.Random(seed)
    kinds = Counter((q.edit, q.kind) for q in whole.questions)
    kept = [q.kind in ("prompt", "unrelated") for q in whole.questions]
    # Efraimidis and Spirakis (2006): the largest u ** (1 / weight) are a weighted sample.
    lots: dict[int, list[tuple[float, int]]] = {}
    for i, question in enumerate(whole.questions):
        if not kept[i]:
            weight = _WEIGHTS[question.kind] / kinds[question.edit, question.kind]
            lots.setdefault(question.edit, []).append((rng.random() ** (1 / weight), i))
    ranked = [
        (rank, -lot, i)
        for own in lots.values()
        for rank, (lot, i) in enumerate(sorted(own, reverse=True))
    ]
    for _, _, i in sorted(ranked)[: max(0, count - sum(kept))]:
        kept[i] = True
    chosen = tuple(q for q, is_kept in zip(whole.questions, kept, strict=True) if is_kept)
    return replace(whole, questions=chosen)


class _Covered:
    """What the edits cover: their prompts and rephrases, the relations asked of each subject, and
    the `subjects` of each relation."""

    def __init__(self, edits: Sequence[Edit]) -> None:
        self._texts = {
            normalise(text) for e in edits for text in (e.prompt, *(r.text for r in e.rephrases))
        }
        self._relations: dict[str, set[str]] = {}
        self.subjects: dict[str, list[str]] = {}
        for edit in edits:
            self._relations.setdefault(normalise(edit.subject or ""), set()).add(_relation(edit))
            if edit.subject:
                self.subjects.setdefault(_relation(edit), []).append(edit.subject)

    def asks(self, text: str) -> bool:
        """True if the text is the prompt or a rephrase of an edit."""
        return normalise(text) in self._texts

    def open_relations(self, edit: Edit, templates: dict[str, list[str]]) -> dict[str, list[str]]:
        """The templates of relations that no edit asks of this edit's subject."""
        taken = self._relations[normalise(edit.subject or "")]
        return {name: texts for name, texts in templates.items() if name not in taken}


def make_near_misses(
    edit: Edit, templates: dict[str, list[str]], rng: random.Random, count: int = _MADE
) -> list[str]:
    """Questions about the edit's subject from the templates of other relations; empty without a
    subject."""
    others = [name for name in templates if name != _relation(edit)]
    if not edit.subject or not others:
        return []
    weights = [len(templates[name]) for name in others]
    picked = rng.choices(others, weights, k=count)
    made = [rng.choice(templates[name]).replace("{}", edit.subject) for name in picked]
    return list(dict.fromkeys(made))


def make_namesakes(
    edit: Edit,
    subjects: Mapping[str, Sequence[str]],
    templates: Mapping[str, Sequence[str]],
    rng: random.Random,
    count: int = _NAMESAKES,
) -> list[str]:
    """The edit's question about names that share words with its subject.

    Such a name is one half of the subject and the other half of another one of the same relation
    (`subjects` by relation); half of one word is the whole word.
    """
    subject = edit.subject or ""
    others = [other for other in subjects.get(_relation(edit), ()) if other != subject]
    if not subject or not others:
        return []
    known = {normalise(name) for name in (subject, *others)}
    own = [t.replace(subject, "{}") for t in (edit.prompt, *(r.text for r in edit.rephrases))]
    asked = [text for text in [*own, *templates.get(_relation(edit), ())] if "{}" in text]
    if not asked:
        return []
    made: list[str] = []
    for _ in range(count):
        pair = [subject, rng.choice(others)]
        rng.shuffle(pair)
        name = join_names(*pair)
        if not repeats_a_word(name) and normalise(name) not in known:
            made.append(rng.choice(asked).replace("{}", name))
    return list(dict.fromkeys(made))


def make_rephrases(edit: Edit, templates: dict[str, list[str]], count: int = 2) -> list[Rephrase]:
    """Rephrases of the edit's prompt by other edits' templates of the same relation, then by simple
    frames."""
    texts: list[str] = []
    if edit.subject:
        same = dict.fromkeys(templates.get(_relation(edit), ()))
        texts = [text.replace("{}", edit.subject) for text in same]
    bare = edit.prompt.rstrip("?.! ")
    texts += [f"Please tell me: {edit.prompt}", f"{bare}, do you know?", bare.lower()]
    other = [text for text in dict.fromkeys(texts) if normalise(text) != normalise(edit.prompt)]
    return [Rephrase(text, "made") for text in other[:count]]


def names_subject(text: str, edit: Edit) -> bool:
    """True if the text names the edit's subject."""
    return bool(edit.subject) and normalise(edit.subject or "") in normalise(text)


def _relation(edit: Edit) -> str:
    return edit.relation or f"relation of {edit.id}"
