"""One wave from edits to a committed, tracked ledger version.

Every step is keyed by the wave's content and skipped where it was done before, so that a killed
run is simply run again: no edit is lost and none is doubled.
"""

from dataclasses import dataclass
from typing import Any

from scen.fs import Storage
from scen.waves.journal import Journal
from scen.waves.plan import Wave
from scen.waves.ports import WaveParts


@dataclass(frozen=True)
class WaveReport:
    """What a wave came to. `evaluated` holds the figures, `tracked` the run that shows them."""

    key: str
    num_edits: int
    version: int
    evaluated: dict[str, Any]
    tracked: dict[str, Any]


def run_wave(wave: Wave, parts: WaveParts, storage: Storage) -> WaveReport:
    """PLANNED, TRAINED, EVALUATED, COMMITTED, TRACKED: each step once, whoever runs it."""
    journal = Journal(storage, wave.key)
    journal.once("planned", lambda: describe_wave(wave))
    trained = journal.once("trained", lambda: parts.train(wave))
    evaluated = journal.once("evaluated", lambda: parts.evaluate(wave, trained))
    version = parts.commit(wave, trained, evaluated)
    tracked = parts.track(wave, journal, evaluated | {"losses": trained["losses"]}, version)
    return WaveReport(wave.key, len(wave.edits), version, evaluated, tracked)


def describe_wave(wave: Wave) -> dict[str, Any]:
    """The plan of a wave as it is kept beside its results."""
    return {
        "stream": wave.stream,
        "index": wave.index,
        "digest": wave.digest,
        "edit_ids": [edit.id for edit in wave.edits],
        "settings": dict(wave.settings),
    }
