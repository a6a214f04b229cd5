"""The steps of a wave in one process: laptop, tests, and one worker of a cluster."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from scen.config import Config
from scen.evaluation.metrics import runners_up, summarise
from scen.evaluation.run_eval import latency_metrics
from scen.ledger.actions import WaveCommit
from scen.ledger.state import Snapshot
from scen.ledger.tensors import save_bundle
from scen.pipeline.admit import Admission, admit
from scen.pipeline.evaluation_work import EvaluationTask, EvaluationWork, json_lines, outcome_lines
from scen.pipeline.gate import broken_bounds, commit_wave
from scen.pipeline.plan import Journal, Wave
from scen.pipeline.track import SystemWatch, WaveTracking, memory_peaks
from scen.pipeline.work import SharedWork, TrainingWork
from scen.records import digest_bytes
from scen.routing.keys import read_prompt_keys
from scen.snapshot.load import Place
from scen.snapshot.open import OpenStore
from scen.tracking.client import Tracker

Progress = Callable[[str, int, int], None]  # step, newly done, total


@dataclass(frozen=True)
class LocalParts:
    """Trains, evaluates, commits and tracks in this process. See `WaveParts` for the steps."""

    store: OpenStore
    config: Config
    locality: Sequence[str]
    tracker: Tracker
    progress: Progress = lambda _step, _done, _total: None

    def read_keys(self, prompts: Sequence[str]) -> Tensor:
        """Read the keys by one forward pass per prompt."""
        return read_prompt_keys(self.store.base, self.store.method.places, prompts)

    def train(self, wave: Wave) -> dict[str, Any]:
        """Fit the wave and write its bundle."""
        began = time.perf_counter()
        with SystemWatch() as watch:
            work = TrainingWork.of(wave, self.config, self.store)
            self.do("train", work)
            fitted = work.collect(self._history(wave))
        num_bytes = sum(tensor.nbytes for tensor in fitted.tensors.values())
        return {
            "bundle": save_bundle(self.store.storage, fitted.tensors),
            "losses": fitted.losses,
            "seconds": time.perf_counter() - began,
            "bytes_per_edit": num_bytes / len(wave.edits),
            "system": watch.rows(),
        }

    def evaluate(self, wave: Wave, trained: dict[str, Any]) -> dict[str, Any]:
        """Evaluate the wave's edits and the locality prompts on the model with the wave applied."""
        snapshot = self.store.ledger.snapshot()
        replaced = tuple(self._admit(wave, snapshot).replaces)
        bundle, version = trained["bundle"], snapshot.version
        task = EvaluationTask(wave, bundle, tuple(self.locality), version, replaced, "sample")
        with SystemWatch() as watch:
            work = EvaluationWork.of(task, self.config, self.store)
            self.do("evaluate", work)
            outcomes = work.collect()
        system = [*trained.get("system", ()), *watch.rows()]
        return {
            "report": asdict(summarise(outcomes)),
            "per_edit_path": self._keep_lines(wave, "per_edit", outcome_lines(outcomes)),
            "rivals": runners_up(outcomes),
            "threshold": self.store.threshold_at(snapshot),
            "latency": latency_metrics(work.times()),
            "memory": memory_peaks([*system, *work.memory()]),
            "system_path": self._keep_lines(wave, "system", json_lines(system)),
        } | {name: trained[name] for name in ("seconds", "bytes_per_edit")}

    def do(self, step: str, work: SharedWork) -> None:
        """Run the pieces of the work that are not done yet."""
        total = sum(work.size(index) for index in range(work.count))
        for index in range(work.count):
            if not work.is_done(index):
                work.keep(index, work.run(index))
            self.progress(step, work.size(index), total)

    def judge(self, evaluated: dict[str, Any]) -> list[str]:
        """Descriptions of the bounds that the wave misses."""
        return broken_bounds(evaluated["report"], self.config.waves)

    def commit(self, wave: Wave, trained: dict[str, Any], evaluated: dict[str, Any]) -> int:
        """Commit the wave, unless it is committed; admission is repeated after each conflict."""
        metadata = {"reliability": evaluated["report"]["reliability"]}
        ledger, rules = self.store.ledger, self.config.waves
        return commit_wave(wave, trained["bundle"], metadata, ledger, rules, self.append)

    def append(self, commit: WaveCommit, version: int) -> int:
        """Commit a wave on top of a version of the ledger and return the new version. Raises
        ConflictError if another commit came first."""
        return self.store.ledger.commit(commit, version).version

    def track(
        self, wave: Wave, journal: Journal, results: dict[str, Any], version: int
    ) -> dict[str, Any]:
        """Track this wave, and earlier waves that are not tracked yet."""
        tracking = WaveTracking(self.store.storage, self.tracker, self.store.base.name)
        return tracking.track(wave, journal, results, version)

    def _keep_lines(self, wave: Wave, name: str, lines: bytes) -> str:
        """Write a file next to the wave's journal and return its path. The name has a digest of the
        content, since a resumed evaluation may differ after commits by others."""
        path = f"waves/{wave.key}/{name}-{digest_bytes(lines)[:12]}.jsonl"
        self.store.storage.put_new(path, lines)
        return path

    def _history(self, wave: Wave) -> Any:
        """history_HF, the hidden states of the other active edits, for `add_neurons`; None with a
        router."""
        if self.store.method.kind.has_router:
            return None
        snapshot = self.store.ledger.snapshot()
        replaced = self._admit(wave, snapshot).replaces
        stay = [entry for entry in snapshot.entries if entry.edit_id not in replaced]
        places = [Place(entry.bundle, entry.row) for entry in stay]
        return self.store.loader.tensors(places, ("h",))["h"]

    def _admit(self, wave: Wave, snapshot: Snapshot) -> Admission:
        return admit(wave.edits, snapshot, self.config.waves.on_conflict)
