"""One wave, from edits to a committed and tracked ledger version.

`WaveParts` are the steps it needs, so that it is the same in one process and on a cluster. Every
step is keyed by the content of the wave and skipped where the journal has it, so that a killed run
is simply run again: no edit is lost or duplicated.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from scen.fs import Storage
from scen.pipeline.admit import Remark, collision_remark
from scen.pipeline.gate import is_let_through
from scen.pipeline.plan import Journal, Wave


class WaveParts(Protocol):
    """The steps of a wave. Results are JSON values; large things lie in bundles named by digest."""

    def read_keys(self, prompts: Sequence[str]) -> Tensor:
        """key_NKF float16 of N prompts at the places of the store's router (method scen-lr)."""
        ...

    def train(self, wave: Wave) -> dict[str, Any]:
        """Fit experts and neurons, write their bundle; `{"bundle": digest, "losses": [...]}`."""
        ...

    def evaluate(self, wave: Wave, trained: dict[str, Any]) -> dict[str, Any]:
        """Measure it on top of what is committed; `{"report": ..., "per_edit_path": ..., ...}`."""
        ...

    def judge(self, evaluated: dict[str, Any]) -> list[str]:
        """The bounds that the wave falls under, in words."""
        ...

    def commit(self, wave: Wave, trained: dict[str, Any], evaluated: dict[str, Any]) -> int:
        """The ledger version that holds the wave, committed now or before."""
        ...

    def track(
        self, wave: Wave, journal: Journal, found: dict[str, Any], version: int
    ) -> dict[str, Any]:
        """Show the wave in the tracker, once. Must not fail a wave that is committed."""
        ...


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
