"""A trained and measured wave becomes a version of the ledger, exactly once."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from scen.config import WaveConfig
from scen.errors import ConflictError
from scen.registry.actions import WaveCommit, os_user
from scen.registry.ledger import Ledger
from scen.waves.admit import Admission, admit
from scen.waves.plan import Wave

log = logging.getLogger(__name__)
COMMIT_TRIES = 5

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
    conflict. `metadata` is told in the log. Raises ConflictError."""
    for _ in range(COMMIT_TRIES):
        done = ledger.is_committed(wave.key)
        if done is not None:
            return done
        snapshot = ledger.snapshot()
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
        )
        try:
            return append(commit, snapshot.version)
        except ConflictError:
            log.info("wave %s: another commit came first, trying again", wave.key)
    raise ConflictError(f"wave {wave.key}: {COMMIT_TRIES} other commits came first; run again")


def _require_fresh(wave: Wave, admission: Admission) -> None:
    """Raises ConflictError where other runs have committed, since the wave was admitted first, what
    does not go with it."""
    reasons = [clash.reason for clash in admission.rejections]
    reasons += [f"edit {edit.id} is committed by another run" for edit in admission.known]
    if reasons:
        raise ConflictError(f"wave {wave.key}: {reasons[0]}; run the file again")
