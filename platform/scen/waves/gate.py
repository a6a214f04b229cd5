"""The gate before a commit: a wave that falls under a bound is held for somebody to look at.

A held wave is trained and measured, and not in the ledger, so nobody serves it. It is what its
journal says: `waves/<key>/held.json`, with its edits, and then `promoted.json` or `rejected.json`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from scen.config import WaveConfig
from scen.errors import ConfigError, NotFoundError
from scen.fs import Storage
from scen.ledger.actions import os_user
from scen.ledger.ledger import Ledger
from scen.records import edit_from_dict, edit_to_dict
from scen.waves.commit_wave import commit_wave
from scen.waves.journal import Journal
from scen.waves.plan import Wave

_FIGURES = {
    "min_reliability": "reliability",
    "min_locality": "locality_unchanged",
    "min_retention": "retention",
}


@dataclass(frozen=True)
class Candidate:
    """A wave that is held: why, since when, and what was measured."""

    wave: Wave
    reasons: tuple[str, ...]
    held_at: str
    report: Mapping[str, Any]


def broken_bounds(report: Mapping[str, Any], bounds: WaveConfig) -> list[str]:
    """The bounds that a report falls under, in words; what was not measured breaks none."""
    found = []
    for name, figure in _FIGURES.items():
        least, value = getattr(bounds, name), report.get(figure)
        if least is not None and value is not None and value < least:
            found.append(f"{figure} {value:.4g} is below waves.{name} {least:g}")
    return found


def is_let_through(wave: Wave, journal: Journal, reasons: list[str]) -> bool:
    """True where a measured wave may be committed: it breaks no bound, or it was promoted. Else it
    is held from now on."""
    if journal.has("rejected"):
        return False
    if not reasons or journal.has("promoted"):
        return True
    journal.once("held", lambda: _held(wave, reasons))
    return False


def candidates(storage: Storage, ledger: Ledger) -> Iterator[Candidate]:
    """The waves that are held and not decided yet, by name."""
    for name in storage.names("waves"):
        folder, _, step = name.rpartition("/")
        key = folder.partition("/")[2]
        if step == "held.json" and not _is_decided(Journal(storage, key), key, ledger):
            yield read_candidate(storage, key)


def read_candidate(storage: Storage, key: str) -> Candidate:
    """A wave that is, or was, held. Raises NotFoundError."""
    journal = Journal(storage, key)
    if not journal.has("held"):
        raise NotFoundError(f"wave: {key!r} is not held; `scen candidates` lists those that are")
    held, planned = journal.read("held"), journal.read("planned")
    edits = tuple(edit_from_dict(row) for row in held["edits"])
    wave = Wave(planned["stream"], planned["index"], edits, planned["settings"])
    report = journal.read("evaluated")["report"]
    return Candidate(wave, tuple(held["reasons"]), held["at"], report)


def promote(storage: Storage, ledger: Ledger, key: str, rules: WaveConfig) -> int:
    """Commit a held wave all the same; the version that holds it. `rules` say who, why, and what
    becomes of contradictions. Raises NotFoundError, ConfigError for a wave that was rejected, and
    ConflictError where later commits do not go with it."""
    candidate, journal = read_candidate(storage, key), Journal(storage, key)
    if journal.has("rejected"):
        raise ConfigError(f"wave: {key} was rejected; hand its edits in again under other ids")
    journal.once("promoted", lambda: _decision(rules))
    metadata = {
        "reliability": candidate.report["reliability"],
        "held_for": "; ".join(candidate.reasons),
    }
    return commit_wave(
        candidate.wave,
        journal.read("trained")["bundle"],
        metadata,
        ledger,
        rules,
        lambda commit, version: ledger.commit(commit, version).version,
    )


def reject(storage: Storage, ledger: Ledger, key: str, rules: WaveConfig) -> None:
    """Never commit a held wave; `scen gc` deletes its experts. Raises NotFoundError, ConfigError
    for a wave that is committed or promoted."""
    read_candidate(storage, key)
    journal = Journal(storage, key)
    if journal.has("promoted") or ledger.is_committed(key) is not None:
        raise ConfigError(f"wave: {key} was promoted; `scen revoke` takes its edits away")
    journal.once("rejected", lambda: _decision(rules))


def _is_decided(journal: Journal, key: str, ledger: Ledger) -> bool:
    return journal.has("rejected") or ledger.is_committed(key) is not None


def _held(wave: Wave, reasons: list[str]) -> dict[str, Any]:
    return {"reasons": reasons, "at": _now(), "edits": [edit_to_dict(e) for e in wave.edits]}


def _decision(rules: WaveConfig) -> dict[str, Any]:
    return {"who": rules.who or os_user(), "why": rules.why, "at": _now()}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
