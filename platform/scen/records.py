"""Frozen value types that the packages of the platform share."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from scen.text import normalise


@dataclass(frozen=True, slots=True)
class Rephrase:
    """Another wording of an edit's prompt. `source` is where the wording comes from."""

    text: str
    source: str = "given"


@dataclass(frozen=True, slots=True)
class Edit:
    """One edit of a stream: the answer to `prompt` is now `target`.

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
        """sha256 (hex) of the content of the edit."""
        return digest_json(edit_to_dict(self))

    @property
    def seed(self) -> int:
        """A 63-bit seed from the id, so that a retrained expert has the same initial weights."""
        return int(hashlib.sha256(self.id.encode()).hexdigest()[:16], 16) >> 1

    @property
    def relation(self) -> str | None:
        """What is asked about the subject: the relation label, else the prompt with the subject
        replaced by {}; None without either."""
        if "relation" in self.metadata:
            return self.metadata["relation"]
        subject = normalise(self.subject or "")
        return normalise(self.prompt).replace(subject, "{}") if subject else None


def edit_to_dict(edit: Edit) -> dict[str, Any]:
    """An edit as JSON types; the inverse of `edit_from_dict`."""
    row = asdict(edit)
    for name in ("valid_from", "valid_until"):
        row[name] = row[name].isoformat() if row[name] else None
    for name in ("rephrases", "near_misses", "locality_prompts"):
        row[name] = list(row[name])
    row["metadata"] = dict(edit.metadata)
    return row


def edit_from_dict(row: Mapping[str, Any]) -> Edit:
    """An edit from the JSON types of `edit_to_dict`."""
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

    `spans` are the parts of them that may be a question of their own, the whole message first, and
    `texts` their text; empty means the whole span of own words. `routed` is the form of the prompt
    that is used for routing, if it differs.
    """

    ids: tuple[int, ...]
    own: tuple[int, int]
    spans: tuple[tuple[int, int], ...] = ()
    texts: tuple[str, ...] = ()
    routed: "EncodedPrompt | None" = None

    def span_text(self, index: int) -> str:
        """The text of the span at this index, in the routed form; empty without spans."""
        texts = (self.routed or self).texts
        return texts[index] if index < len(texts) else ""


@dataclass(frozen=True, slots=True)
class EncodedEdit:
    """An edit as tokens: the rendered prompt, and the target with its end token.

    `ways` are other ways of asking the prompt, for which its expert must give the target as well.
    """

    prompt: EncodedPrompt
    target: tuple[int, ...]
    seed: int
    ways: tuple[EncodedPrompt, ...] = ()
