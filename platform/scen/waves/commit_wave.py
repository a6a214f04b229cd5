"""A trained and measured wave becomes a version of the ledger, exactly once."""

import logging
import random
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from scen.config import WaveConfig
from scen.errors import ConflictError
from scen.ledger.actions import WaveCommit, os_user
from scen.ledger.ledger import Ledger
from scen.waves.admit import Admission, admit
from scen.waves.plan import Wave

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
