"""The quality gate before a commit, and the commit itself.

A wave that misses a bound of the settings is held: trained and evaluated, but not committed and so
not served. Its state is its journal: `waves/<key>/held.json`, then `promoted.json` or
`rejected.json`. `commit_wave` makes an accepted wave a version of the ledger exactly once.
"""

import logging
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from scen.config import WaveConfig
from scen.errors import ConfigError, ConflictError, NotFoundError
from scen.fs import Storage
from scen.ledger.actions import WaveCommit, os_user
from scen.ledger.ledger import Ledger
from scen.pipeline.admit import Admission, admit
from scen.pipeline.plan import Journal, Wave
from scen.records import edit_from_dict, edit_to_dict

log = logging.getLogger(__name__)
COMMIT_TRIES = 12
_PAUSE_S, _MAX_PAUSE_S = 0.05, 2.0  # upper bounds before the second try, and before any

# Commits a wave on top of a version of the ledger and returns the new version. Raises ConflictError
# if another commit came first.
Append = Callable[[WaveCommit, int], int]


def commit_wave(
    wave: Wave,
    bundle: str,
    metadata: Mapping[str, Any],
    ledger: Ledger,
    rules: WaveConfig,
    append: Append,
) -> int:
    """Commit a wave unless it is committed already, and return its version. Admission is repeated
    after each conflict. `metadata` is kept in the log. Raises ConflictError if other commits
    contradict the wave, or came first in all `COMMIT_TRIES` tries."""
    for pause in pauses():
        time.sleep(pause)
        snapshot = ledger.snapshot()  # before is_committed, else it might hold the wave
        done = ledger.is_committed(wave.key)
        if done is not None:
            return done
        admission = admit(wave.edits, snapshot, rules.on_conflict)
        _require_fresh(wave, admission)
        commit = WaveCommit(
            wave_key=wave.key,
            stream=wave.stream,
            wave=wave.index,
            bundle=bundle,
            edits=wave.edits,
            metadata={name: str(value) for name, value in metadata.items()}
            | ledger.manifest.artifacts_at(snapshot.state),
            supersedes=admission.supersedes,
            why=rules.why,
            who=rules.who or os_user(),
            as_of=admission.as_of,
        )
        try:
            return append(commit, snapshot.version)
        except ConflictError:
            log.info("wave %s: another commit came first, trying again", wave.key)
    raise ConflictError(
        f"wave {wave.key}: {COMMIT_TRIES} times another commit came first; the wave is kept, and "
        "committed when the same command is run again while fewer others write"
    )


def pauses() -> Iterator[float]:
    """Seconds to wait before each try: none before the first, then exponential backoff with full
    jitter, so that writers in conflict do not collide again."""
    yield 0.0
    for attempt in range(COMMIT_TRIES - 1):
        yield random.uniform(0, min(_MAX_PAUSE_S, _PAUSE_S * 2**attempt))


def _require_fresh(wave: Wave, admission: Admission) -> None:
    """Raises ConflictError if other runs have committed conflicting edits since the wave was
    admitted."""
    reasons = [clash.reason for clash in admission.rejections]
    reasons += [f"edit {edit.id} is committed by another run" for edit in admission.known]
    if reasons:
        raise ConflictError(f"wave {wave.key}: {reasons[0]}; run the file again")


_FIGURES = {
    "min_reliability": "reliability",
    "min_locality": "locality_unchanged",
    "min_retention": "retention",
}


@dataclass(frozen=True)
class Candidate:
    """A held wave: why, since when, and its evaluation."""

    wave: Wave
    reasons: tuple[str, ...]
    held_at: str
    report: Mapping[str, Any]


def broken_bounds(report: Mapping[str, Any], bounds: WaveConfig) -> list[str]:
    """Descriptions of the bounds that a report misses; missing figures break none."""
    broken = []
    for name, figure in _FIGURES.items():
        minimum, value = getattr(bounds, name), report.get(figure)
        if minimum is not None and value is not None and value < minimum:
            broken.append(f"{figure} {value:.4g} is below waves.{name} {minimum:g}")
    return broken


def is_let_through(wave: Wave, journal: Journal, reasons: list[str]) -> bool:
    """True if an evaluated wave may be committed: it breaks no bound, or was promoted. Otherwise it
    is held, unless it was rejected."""
    if journal.has("rejected"):
        return False
    if not reasons or journal.has("promoted"):
        return True
    journal.once("held", lambda: _held(wave, reasons))
    return False


def candidates(storage: Storage, ledger: Ledger) -> Iterator[Candidate]:
    """The held waves that are not decided yet, sorted by key."""
    for name in storage.names("waves"):
        folder, _, step = name.rpartition("/")
        key = folder.partition("/")[2]
        if step == "held.json" and not _is_decided(Journal(storage, key), key, ledger):
            yield read_candidate(storage, key)


def read_candidate(storage: Storage, key: str) -> Candidate:
    """A wave that is or was held. Raises NotFoundError."""
    journal = Journal(storage, key)
    if not journal.has("held"):
        raise NotFoundError(f"wave: {key!r} is not held; `scen candidates` lists those that are")
    held, planned = journal.read("held"), journal.read("planned")
    edits = tuple(edit_from_dict(row) for row in held["edits"])
    wave = Wave(planned["stream"], planned["index"], edits, planned["settings"])
    report = journal.read("evaluated")["report"]
    return Candidate(wave, tuple(held["reasons"]), held["at"], report)


def promote(storage: Storage, ledger: Ledger, key: str, rules: WaveConfig) -> int:
    """Commit a held wave and return its version. `rules` has who, why and the handling of
    contradictions. Raises NotFoundError, ConfigError for a wave that was rejected, and
    ConflictError if later commits conflict with it."""
    candidate, journal = read_candidate(storage, key), Journal(storage, key)
    if journal.has("rejected"):
        raise ConfigError(f"wave: {key} was rejected; submit its edits again under other ids")
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
    """Reject a held wave for good; `scen gc` deletes its experts. Raises NotFoundError, ConfigError
    for a wave that is committed or promoted."""
    read_candidate(storage, key)
    journal = Journal(storage, key)
    if journal.has("promoted") or ledger.is_committed(key) is not None:
        raise ConfigError(f"wave: {key} was promoted; `scen revoke` deactivates its edits")
    journal.once("rejected", lambda: _decision(rules))


def _is_decided(journal: Journal, key: str, ledger: Ledger) -> bool:
    return journal.has("rejected") or ledger.is_committed(key) is not None


def _held(wave: Wave, reasons: list[str]) -> dict[str, Any]:
    return {"reasons": reasons, "at": _now(), "edits": [edit_to_dict(e) for e in wave.edits]}


def _decision(rules: WaveConfig) -> dict[str, Any]:
    return {"who": rules.who or os_user(), "why": rules.why, "at": _now()}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
