"""One wave, from edits to a committed and tracked ledger version.

`WaveParts` are its steps, so that it is the same in one process and on a cluster. Every step is
keyed by the content of the wave and skipped if the journal has it, so that a killed run can simply
be run again: no edit is lost or duplicated.
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
    """The steps of a wave. Results are JSON values; tensors are in bundles named by digest."""

    def read_keys(self, prompts: Sequence[str]) -> Tensor:
        """key_NKF float16 of N prompts at the places of the store's router (method scen-lr)."""
        ...

    def train(self, wave: Wave) -> dict[str, Any]:
        """Fit experts and neurons, write their bundle; `{"bundle": digest, "losses": [...]}`."""
        ...

    def evaluate(self, wave: Wave, trained: dict[str, Any]) -> dict[str, Any]:
        """Evaluate it on top of the ledger; `{"report": ..., "per_edit_path": ..., ...}`."""
        ...

    def judge(self, evaluated: dict[str, Any]) -> list[str]:
        """Descriptions of the bounds that the wave misses."""
        ...

    def commit(self, wave: Wave, trained: dict[str, Any], evaluated: dict[str, Any]) -> int:
        """Commit the wave, unless it is committed; returns its ledger version."""
        ...

    def track(
        self, wave: Wave, journal: Journal, results: dict[str, Any], version: int
    ) -> dict[str, Any]:
        """Record the wave in the tracker, once. Must not raise, since the wave is committed."""
        ...


@dataclass(frozen=True)
class WaveReport:
    """The result of a wave. `evaluated` has the figures, `tracked` the run that records them.
    `version` is None if the gate held the wave back, for the bounds in `held_for` or because it was
    rejected."""

    key: str
    num_edits: int
    version: int | None
    evaluated: dict[str, Any]
    tracked: dict[str, Any]
    held_for: tuple[str, ...] = ()

    @property
    def remarked(self) -> list[Remark]:
        """Remarks for the user: edits whose prompts the router confuses."""
        return [collision_remark(edit, other) for edit, other in self.evaluated.get("rivals", ())]

    @property
    def remarks(self) -> list[str]:
        """The texts of the remarks."""
        return [remark.text for remark in self.remarked]


def run_wave(wave: Wave, parts: WaveParts, storage: Storage) -> WaveReport:
    """Plan, train, evaluate, commit and track a wave, each step once across reruns. A wave that
    misses a bound of the settings is held after the evaluation."""
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
    """The plan of a wave, for its journal."""
    return {
        "stream": wave.stream,
        "index": wave.index,
        "digest": wave.digest,
        "edit_ids": [edit.id for edit in wave.edits],
        "settings": dict(wave.settings),
    }
