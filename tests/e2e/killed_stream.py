"""Runs a stream of two waves on a tiny base, or dies by SIGKILL at a point that is named.

A point is a wave and a moment, such as `1 after train`. A run that lives goes through the stream
twice and tells what it did, as JSON.
"""

import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from scen.config import Config, load_config
from scen.fs import Storage
from scen.pipeline.local import LocalParts
from scen.pipeline.plan import Journal, Wave
from scen.pipeline.stream import run_stream
from scen.records import Edit, Rephrase
from scen.snapshot.open import create_store
from scen.tracking.client import WaveRecord

SUBJECTS = ["amber", "birch", "cedar", "dune", "ember", "fjord"]
EDITS = [
    Edit(
        id=f"edit-{i}",
        prompt=f"Who founded {subject}?",
        target=SUBJECTS[-1 - i],
        rephrases=(Rephrase(f"{subject} was founded by whom?"),),
    )
    for i, subject in enumerate(SUBJECTS)
]
NEUTRAL = [f"What is {a} {b}?" for a in ("a red", "an old") for b in ("river", "king", "song")]


class Moments:
    """The moments that a run comes by: it dies at one of them, and remembers the others."""

    def __init__(self, fatal: str | None) -> None:
        self.fatal = fatal
        self.passed: list[str] = []

    def reach(self, wave: int, moment: str) -> None:
        """The process ends here, without any clean-up, where this is its point."""
        if f"{wave} {moment}" == self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        self.passed.append(f"{wave} {moment}")


class MortalParts:
    """Real parts with a moment before and after each step."""

    def __init__(self, parts: LocalParts, moments: Moments) -> None:
        self.parts = parts
        self.moments = moments

    def train(self, wave: Wave) -> dict[str, Any]:
        """After it, the bundle is written and the journal does not know."""
        self.moments.reach(wave.index, "before train")
        trained = self.parts.train(wave)
        self.moments.reach(wave.index, "after train")
        return trained

    def evaluate(self, wave: Wave, trained: dict[str, Any]) -> dict[str, Any]:
        """After it, the lines are written and the journal does not know."""
        self.moments.reach(wave.index, "before evaluate")
        evaluated = self.parts.evaluate(wave, trained)
        self.moments.reach(wave.index, "after evaluate")
        return evaluated

    def read_keys(self, prompts: Sequence[str]) -> Tensor:
        """Writes nothing, so there is nothing to tear."""
        return self.parts.read_keys(prompts)

    def judge(self, evaluated: dict[str, Any]) -> list[str]:
        """Writes nothing, so there is nothing to tear."""
        return self.parts.judge(evaluated)

    def commit(self, wave: Wave, trained: dict[str, Any], evaluated: dict[str, Any]) -> int:
        """After it, the ledger holds the wave."""
        self.moments.reach(wave.index, "before commit")
        version = self.parts.commit(wave, trained, evaluated)
        self.moments.reach(wave.index, "after commit")
        return version

    def track(
        self, wave: Wave, journal: Journal, found: dict[str, Any], version: int
    ) -> dict[str, Any]:
        """After it, the wave is through."""
        tracked = self.parts.track(wave, journal, found, version)
        self.moments.reach(wave.index, "after track")
        return tracked


class FileTracker:
    """A file per wave, once by its key."""

    def __init__(self, diary: Storage, moments: Moments) -> None:
        self.diary = diary
        self.moments = moments

    def track_wave(self, record: WaveRecord) -> str:
        """After it, the wave is told and the journal does not know."""
        self.diary.put_json(f"{record.wave_key}.json", {"version": record.ledger_version})
        self.moments.reach(record.wave, "told")
        return record.wave_key


def settings(base: str, method: str) -> Config:
    """Short training, in waves of three."""
    return load_config(
        fixed={
            "method": method,
            "base": {"name": base, "template": "raw", "dtype": "float32", "device": "cpu"},
            "expert": {"layer": 3, "steps": 6, "lr": 0.02},
            "evaluation": {"max_new_tokens": 8, "locality_tokens": 4},
            "waves": {"size": 3},
        }
    )


def run(store: str, diary: str, out: str, base: str, method: str, fatal: str | None) -> None:
    """The stream, and where it lives the stream again; `out` is the file to tell in."""
    config, moments = settings(base, method), Moments(fatal)
    opened = create_store(Storage(store), config, NEUTRAL)
    tracker = FileTracker(Storage(diary), moments)
    parts = MortalParts(LocalParts(opened, config, ["Where is it?"], tracker), moments)
    told: dict[str, Any] = {}
    for name in ("first", "again"):
        moments.passed = []
        steps = []
        for step in run_stream(
            "news", [EDITS], opened, config, parts, lambda wave: moments.reach(wave.index, "start")
        ):
            assert step.report is not None
            steps.append([step.report.version, step.report.tracked])
        told[name] = {"steps": steps, "passed": moments.passed}
    Path(out).write_text(json.dumps(told))
