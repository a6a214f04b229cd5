"""The steps of a wave in one process: laptop, tests, and one worker of a cluster."""

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from scen.config import Config
from scen.errors import ConflictError
from scen.evaluation.metrics import EvalReport, flatten_report, summarise
from scen.fs import Storage
from scen.records import digest_bytes
from scen.registry.actions import WaveCommit, os_user
from scen.registry.snapshot import Snapshot
from scen.snapshot.open import OpenStore
from scen.snapshot.rows import Place
from scen.store.bundles import save_bundle
from scen.tracking.tracker import Tracker
from scen.tracking.wave_record import WaveRecord
from scen.waves.admit import Admission, admit
from scen.waves.evaluation_work import EvaluationTask, EvaluationWork, outcome_lines
from scen.waves.journal import Journal
from scen.waves.plan import Wave
from scen.waves.shared_work import SharedWork
from scen.waves.track_queue import TrackQueue
from scen.waves.training_work import TrainingWork

log = logging.getLogger(__name__)
COMMIT_TRIES = 5

Progress = Callable[[str, int, int], None]  # step, done in this call, of how many


@dataclass(frozen=True)
class LocalParts:
    """Trains, measures, commits and tracks on this machine. See `WaveParts` for each step."""

    store: OpenStore
    config: Config
    locality: Sequence[str]
    tracker: Tracker
    progress: Progress = lambda _step, _done, _total: None

    def train(self, wave: Wave) -> dict[str, Any]:
        """Fit the wave and write its bundle."""
        began = time.perf_counter()
        work = TrainingWork.of(wave, self.config, self.store)
        self.do("train", work)
        fitted = work.collect(self._history(wave))
        num_bytes = sum(t.numel() * t.element_size() for t in fitted.tensors.values())
        return {
            "bundle": save_bundle(self.store.storage, fitted.tensors),
            "losses": fitted.losses,
            "seconds": time.perf_counter() - began,
            "bytes_per_edit": num_bytes / len(wave.edits),
        }

    def evaluate(self, wave: Wave, trained: dict[str, Any]) -> dict[str, Any]:
        """Measure the wave's edits and shared locality prompts on the model it would make."""
        snapshot = self.store.ledger.snapshot()
        replaced = tuple(self._admit(wave, snapshot).supersedes)
        bundle, version = trained["bundle"], snapshot.version
        task = EvaluationTask(wave, bundle, tuple(self.locality), version, replaced)
        work = EvaluationWork.of(task, self.config, self.store)
        self.do("evaluate", work)
        outcomes = work.collect()
        lines = outcome_lines(outcomes)
        # Lines of an evaluation that was cut off may differ: others have committed since.
        path = f"waves/{wave.key}/per_edit-{digest_bytes(lines)[:12]}.jsonl"
        self.store.storage.put_new(path, lines)
        return {"report": asdict(summarise(outcomes)), "per_edit_path": path} | {
            name: trained[name] for name in ("seconds", "bytes_per_edit")
        }

    def do(self, step: str, work: SharedWork) -> None:
        """Do the pieces of some work that were not done before."""
        total = sum(work.size(index) for index in range(work.count))
        for index in range(work.count):
            if not work.is_done(index):
                work.keep(index, work.run(index))
            self.progress(step, work.size(index), total)

    def commit(self, wave: Wave, trained: dict[str, Any], evaluated: dict[str, Any]) -> int:
        """Append the wave to the ledger, unless it is there; checked again after each conflict."""
        ledger = self.store.ledger
        for _ in range(COMMIT_TRIES):
            done = ledger.is_committed(wave.key)
            if done is not None:
                return done
            snapshot = ledger.snapshot()
            admission = self._admit(wave, snapshot)
            _require_fresh(wave, admission)
            report = evaluated["report"]
            commit = WaveCommit(
                wave_key=wave.key,
                stream=wave.stream,
                wave=wave.index,
                bundle=trained["bundle"],
                edits=wave.edits,
                metadata={"reliability": str(report["reliability"]), **ledger.manifest.artifacts},
                supersedes=admission.supersedes,
                why=self.config.waves.why,
                who=self.config.waves.who or os_user(),
            )
            try:
                return self.append(commit, snapshot.version)
            except ConflictError:
                log.info("wave %s: another commit came first, trying again", wave.key)
        raise ConflictError(f"wave {wave.key}: {COMMIT_TRIES} other commits came first; run again")

    def append(self, commit: WaveCommit, version: int) -> int:
        """Write a wave on top of a version of the ledger; the version that holds it. Raises
        ConflictError where another commit came first."""
        return self.store.ledger.commit(commit, version).version

    def track(
        self, wave: Wave, journal: Journal, found: dict[str, Any], version: int
    ) -> dict[str, Any]:
        """Tell the tracker of this wave, then of those that still wait. A tracker that is down is
        a warning: the record waits on storage, and the next wave or run tells it."""
        if journal.has("tracked"):
            return journal.read("tracked")
        record, queue = self._record(wave, found, version), TrackQueue(self._storage, wave.stream)
        try:
            tracked = self._tell(record)
        except Exception as err:  # a committed wave must not fail for want of a diary
            queue.put(record)
            log.warning("wave %s is committed but not tracked yet (%s)", wave.key, err)
            return {"run_id": None}
        try:
            for late in queue.waiting():
                self._tell(late)
        except Exception as err:  # as above
            log.warning("earlier waves are not tracked yet (%s)", err)
        return tracked

    def _tell(self, record: WaveRecord) -> dict[str, Any]:
        journal = Journal(self._storage, record.wave_key)
        return journal.once("tracked", lambda: {"run_id": self.tracker.track_wave(record)})

    @property
    def _storage(self) -> Storage:
        return self.store.storage

    def _record(self, wave: Wave, found: dict[str, Any], version: int) -> WaveRecord:
        report = EvalReport(**found["report"])
        lines = self._storage.read(found["per_edit_path"]).decode().splitlines()
        return WaveRecord(
            stream=wave.stream,
            wave=wave.index,
            wave_key=wave.key,
            ledger_version=version,
            base_name=self.store.base.name,
            params=_flat(dict(wave.settings)),
            metrics=flatten_report(report)
            | {
                "train/seconds": found["seconds"],
                "train/edits_per_second": len(wave.edits) / found["seconds"],
                "train/bytes_per_edit": found["bytes_per_edit"],
            },
            loss_curves=found["losses"],
            per_edit=[json.loads(line) for line in lines],
            dataset_digest=wave.digest,
            num_edits=len(wave.edits),
        )

    def _history(self, wave: Wave) -> Any:
        """What the neurons of the wave are to be told from: the edits that stay beside it."""
        if self.store.method.method != "scen":
            return None
        snapshot = self.store.ledger.snapshot()
        replaced = self._admit(wave, snapshot).supersedes
        stay = [entry for entry in snapshot.entries if entry.edit_id not in replaced]
        places = [Place(entry.bundle, entry.row) for entry in stay]
        return self.store.loader.tensors(places, ("h",))["h"]

    def _admit(self, wave: Wave, snapshot: Snapshot) -> Admission:
        return admit(wave.edits, snapshot, self.config.waves.on_conflict)


def _require_fresh(wave: Wave, admission: Admission) -> None:
    """Raises ConflictError where other runs have committed, since the wave was admitted first, what
    does not go with it."""
    reasons = [clash.reason for clash in admission.rejections]
    reasons += [f"edit {edit.id} is committed by another run" for edit in admission.known]
    if reasons:
        raise ConflictError(f"wave {wave.key}: {reasons[0]}; run the file again")


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, str | int | float | bool]:
    flat: dict[str, str | int | float | bool] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value if isinstance(value, int | float | bool) else str(value)
    return flat
