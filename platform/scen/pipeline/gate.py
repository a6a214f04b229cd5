"""The quality gate before a commit, and the commit itself.

A wave that misses a bound of the settings is held: trained and evaluated but not in the ledger,
so it is not served. Its state is its journal: `waves/<key>/held.json`, then `promoted.json` or
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
_PAUSE_S, _LONGEST_S = 0.05, 2.0  # before the second try, and before any

# Writes a wave on top of a version of the ledger, and tells the version that holds it. Raises
# ConflictError where another commit came first.
Append = Callable[[WaveCommit, int], int]


def commit_wave(
    wave: Wave,
    bundle: str,
    metadata: Mapping[str, Any],
    ledger: Ledger,
    rules: WaveConfig,
    append: Append,
) -> int:
    """The version that holds the wave: committed before, or now, and checked again after each
    conflict. `metadata` is told in the log. Raises ConflictError where others contradict the wave,
    or have come first time and again."""
    for pause in pauses():
        time.sleep(pause)
        snapshot = ledger.snapshot()  # before the question: else it may hold the wave by now
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
            | dict(ledger.manifest.artifacts),
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
    """Seconds to wait before each try: none before the first, then longer from try to try, and
    never as long as another writer that met the same conflict."""
    yield 0.0
    for doubled in range(COMMIT_TRIES - 1):
        yield random.uniform(0, min(_LONGEST_S, _PAUSE_S * 2**doubled))


def _require_fresh(wave: Wave, admission: Admission) -> None:
    """Raises ConflictError where other runs have committed, since the wave was admitted first, what
    does not go with it."""
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
