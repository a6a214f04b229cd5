"""One wave from edits to a committed, tracked ledger version.

Every step is keyed by the wave's content and skipped where it was done before, so that a killed
run is simply run again: no edit is lost and none is doubled.
"""

from dataclasses import dataclass
from typing import Any

from scen.fs import Storage
from scen.waves.gate import is_let_through
from scen.waves.journal import Journal
from scen.waves.plan import Wave
from scen.waves.ports import WaveParts
from scen.waves.remarks import Remark, collision_remark


@dataclass(frozen=True)
class WaveReport:
    """What a wave came to. `evaluated` holds the figures, `tracked` the run that shows them.
    `version` is None where the gate keeps the wave from the ledger, for the bounds in `held_for`
    or because it was rejected."""

    key: str
    num_edits: int
    version: int | None
    evaluated: dict[str, Any]
    tracked: dict[str, Any]
    held_for: tuple[str, ...] = ()

    @property
    def remarked(self) -> list[Remark]:
        """What a person may want to look at: edits whose prompts the router confuses."""
        return [collision_remark(edit, rival) for edit, rival in self.evaluated.get("rivals", ())]

    @property
    def remarks(self) -> list[str]:
        """The remarks in words."""
        return [remark.text for remark in self.remarked]


def run_wave(wave: Wave, parts: WaveParts, storage: Storage) -> WaveReport:
    """PLANNED, TRAINED, EVALUATED, COMMITTED, TRACKED: each step once, whoever runs it. A wave
    that falls under a bound of the settings ends at EVALUATED, and is held."""
    journal = Journal(storage, wave.key)
    journal.once("planned", lambda: describe_wave(wave))
    trained = journal.once("trained", lambda: parts.train(wave))
    evaluated = journal.once("evaluated", lambda: parts.evaluate(wave, trained))
    reasons = parts.judge(evaluated)
    if not is_let_through(wave, journal, reasons):
        return WaveReport(wave.key, len(wave.edits), None, evaluated, {}, tuple(reasons))
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
