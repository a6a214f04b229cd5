"""What earlier rows said, as 16-byte hashes and row numbers: about half a kilobyte a row."""

from hashlib import blake2b

from scen.ingest.rows import FieldError
from scen.records import Edit, normalise

Statement = tuple[bytes, int]


class SeenEdits:
    """The ids, prompts and facts of the edits taken so far. The first one wins; or, where later
    rows may contradict earlier ones, only what repeats the last that was said is refused."""

    def __init__(self, may_contradict: bool = False) -> None:
        self._may_contradict = may_contradict
        self._ids: dict[bytes, int] = {}
        self._prompts: dict[bytes, Statement] = {}
        self._facts: dict[bytes, Statement] = {}

    def add(self, edit: Edit, row: int) -> None:
        """Note an edit, or raise FieldError when it repeats or contradicts an earlier one.

        The same subject, relation and target in other words is no clash: it repeats a fact, and
        both wordings may be asked. Nor are edits that start to be valid at different times.
        """
        target = _hash(normalise(edit.target) or edit.target)
        start = "" if edit.valid_from is None else edit.valid_from.isoformat()
        prompt = _hash(f"{start}\n{normalise(edit.prompt)}" if start else normalise(edit.prompt))
        fact = _fact(edit)
        name = _hash(edit.id)
        self._check_prompt(prompt, target)
        if fact is not None and not self._may_contradict:
            self._check_fact(fact, target)
        if name in self._ids:
            raise FieldError(
                "id", f"row {self._ids[name]} has the same id: give every edit its own"
            )
        self._ids[name] = row
        self._prompts[prompt] = statement = (target, row)
        if fact is not None:
            self._facts.setdefault(fact, statement)

    def copy(self) -> "SeenEdits":
        """The same memory, from here on apart."""
        other = SeenEdits(self._may_contradict)
        other._ids, other._prompts = dict(self._ids), dict(self._prompts)
        other._facts = dict(self._facts)
        return other

    def _check_prompt(self, prompt: bytes, target: bytes) -> None:
        if prompt not in self._prompts:
            return
        known, row = self._prompts[prompt]
        if known == target:
            raise FieldError("prompt", f"row {row} has the same prompt and target: drop this row")
        if not self._may_contradict:
            raise FieldError("target", _contradicts(row, "prompt"))

    def _check_fact(self, fact: bytes, target: bytes) -> None:
        known, row = self._facts.get(fact, (target, 0))
        if known != target:
            raise FieldError("target", _contradicts(row, "subject and relation"))


def _contradicts(row: int, what: str) -> str:
    return (
        f"contradicts row {row}: the same {what} with another target; keep one of the two, or let "
        "the later one take the other's place (--on-conflict supersede)"
    )


def _fact(edit: Edit) -> bytes | None:
    relation = edit.relation if edit.subject else None
    if edit.subject is None or relation is None:
        return None
    start = "" if edit.valid_from is None else edit.valid_from.isoformat()
    return _hash("\n".join([normalise(edit.subject), normalise(relation), start]))


def _hash(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=16).digest()
