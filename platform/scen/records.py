"""The frozen values that the parts of the platform hand to each other."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from scen.text import normalise as normalise


@dataclass(frozen=True, slots=True)
class Rephrase:
    """Another way to ask for an edited fact. `source` says where the wording comes from."""

    text: str
    source: str = "given"


@dataclass(frozen=True, slots=True)
class Edit:
    """One statement of a stream: the answer to `prompt` is now `target`.

    `near_misses` and `locality_prompts` are prompts whose answer must not change; the first are
    close to the edit (same subject, other question), the second are unrelated to it.
    """

    id: str
    prompt: str
    target: str
    subject: str | None = None
    rephrases: tuple[Rephrase, ...] = ()
    near_misses: tuple[str, ...] = ()
    locality_prompts: tuple[str, ...] = ()
    source: str | None = None
    author: str | None = None
    valid_from: datetime | None = None
    valid_until: datetime | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """sha256 (hex) of the whole edit: equal content has an equal digest."""
        return digest_json(edit_to_dict(self))

    @property
    def seed(self) -> int:
        """A 63-bit seed from the id, so that a redone expert starts from the same numbers."""
        return int(hashlib.sha256(self.id.encode()).hexdigest()[:16], 16) >> 1

    @property
    def relation(self) -> str | None:
        """What is asked about the subject: the relation label, or the prompt less the subject."""
        if "relation" in self.metadata:
            return self.metadata["relation"]
        subject = normalise(self.subject or "")
        return normalise(self.prompt).replace(subject, "{}") if subject else None


def edit_to_dict(edit: Edit) -> dict[str, Any]:
    """An edit as JSON types; `edit_from_dict` is the way back."""
    row = asdict(edit)
    for name in ("valid_from", "valid_until"):
        row[name] = row[name].isoformat() if row[name] else None
    for name in ("rephrases", "near_misses", "locality_prompts"):
        row[name] = list(row[name])
    row["metadata"] = dict(edit.metadata)
    return row


def edit_from_dict(row: Mapping[str, Any]) -> Edit:
    """The edit that `edit_to_dict` wrote."""
    known = dict(row)
    for name in ("valid_from", "valid_until"):
        known[name] = datetime.fromisoformat(known[name]) if known.get(name) else None
    known["rephrases"] = tuple(Rephrase(**r) for r in known.get("rephrases") or ())
    for name in ("near_misses", "locality_prompts"):
        known[name] = tuple(known.get(name) or ())
    return Edit(**known)


def digest_bytes(data: bytes) -> str:
    """sha256 in hex."""
    return hashlib.sha256(data).hexdigest()


def digest_json(value: object) -> str:
    """sha256 (hex) of the canonical JSON form of a value."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return digest_bytes(text.encode())


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """Token ids of a rendered prompt. `own` is the half-open token span of the user's own words.

    `spans` are those parts of them that may be a question of their own, the whole message first,
    and `texts` what they say; none stands for the own words as they are. `routed` is the prompt in
    the form that is routed, where that differs.
    """

    ids: tuple[int, ...]
    own: tuple[int, int]
    spans: tuple[tuple[int, int], ...] = ()
    texts: tuple[str, ...] = ()
    routed: "EncodedPrompt | None" = None

    def span_text(self, index: int) -> str:
        """What the span at this index says, in the form that is routed; empty where there are no
        spans."""
        texts = (self.routed or self).texts
        return texts[index] if index < len(texts) else ""


@dataclass(frozen=True, slots=True)
class EncodedEdit:
    """An edit as tokens: the rendered prompt, and the target with its end token.

    `ways` is the prompt in other ways of asking, in which its expert must tell the target as well.
    """

    prompt: EncodedPrompt
    target: tuple[int, ...]
    seed: int
    ways: tuple[EncodedPrompt, ...] = ()
