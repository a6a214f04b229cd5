"""Record committed waves in the tracker.

A tracker that is down delays nothing: untracked waves are queued as files and recorded later.
"""

import json
import logging
from dataclasses import asdict, dataclass
from typing import Any

from scen.evaluation.metrics import EvalReport, flatten_report
from scen.fs import Storage
from scen.pipeline.plan import Journal, Wave
from scen.tracking.tracker import Tracker, WaveRecord


class TrackQueue:
    """The records of one stream that wait: `untracked/<stream>/<wave>-<key>.json`.

    Nothing is taken out: a wave whose journal says that it is tracked waits no longer.
    """

    def __init__(self, storage: Storage, stream: str) -> None:
        self._storage = storage
        self._folder = f"untracked/{stream}"

    def put(self, record: WaveRecord) -> None:
        """Keep a record, once."""
        name = f"{self._folder}/{record.wave:05d}-{record.wave_key}.json"
        self._storage.put_new(name, json.dumps(asdict(record), ensure_ascii=False).encode())

    def waiting(self) -> list[WaveRecord]:
        """The records that no tracker has taken, in the order of their waves."""
        found = []
        for name in self._storage.names(self._folder):
            key = name.rsplit("/", 1)[-1].removesuffix(".json").partition("-")[2]
            if not Journal(self._storage, key).has("tracked"):
                found.append(WaveRecord(**self._storage.read_json(name)))
        return found


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WaveDiary:
    """The waves of a store, as a tracker hears of them."""

    storage: Storage
    tracker: Tracker
    base_name: str

    def track(
        self, wave: Wave, journal: Journal, found: dict[str, Any], version: int
    ) -> dict[str, Any]:
        """Tell the tracker of this wave, then of those that still wait. A tracker that is down is
        a warning: the record waits on storage, and the next wave or run tells it."""
        if journal.has("tracked"):
            return journal.read("tracked")
        record, queue = self._record(wave, found, version), TrackQueue(self.storage, wave.stream)
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
        journal = Journal(self.storage, record.wave_key)
        return journal.once("tracked", lambda: {"run_id": self.tracker.track_wave(record)})

    def _record(self, wave: Wave, found: dict[str, Any], version: int) -> WaveRecord:
        """`found` is what the wave's evaluation came to, and `losses`; earlier versions of this
        package left no threshold and nothing about time and memory in it."""
        report = EvalReport(**found["report"])
        return WaveRecord(
            stream=wave.stream,
            wave=wave.index,
            wave_key=wave.key,
            ledger_version=version,
            base_name=self.base_name,
            params=_flat(dict(wave.settings)),
            metrics=flatten_report(report)
            | _train_metrics(found, len(wave.edits))
            | {f"latency/{name}": value for name, value in found.get("latency", {}).items()}
            | {f"system/{name}": value for name, value in found.get("memory", {}).items()},
            loss_curves=found["losses"],
            per_edit=self._lines(found["per_edit_path"]),
            dataset_digest=wave.digest,
            num_edits=len(wave.edits),
            threshold=found.get("threshold"),
            system=self._lines(found["system_path"]) if "system_path" in found else [],
        )

    def _lines(self, path: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.storage.read(path).decode().splitlines()]


def _train_metrics(found: dict[str, Any], num_edits: int) -> dict[str, float]:
    return {
        "train/seconds": found["seconds"],
        "train/seconds_per_edit": found["seconds"] / num_edits,
        "train/edits_per_second": num_edits / found["seconds"],
        "train/bytes_per_edit": found["bytes_per_edit"],
    }


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, str | int | float | bool]:
    flat: dict[str, str | int | float | bool] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value if isinstance(value, int | float | bool) else str(value)
    return flat
