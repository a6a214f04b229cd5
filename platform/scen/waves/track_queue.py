"""Committed waves that no tracker has taken yet, kept as files until one does."""

import json
from dataclasses import asdict

from scen.fs import Storage
from scen.tracking.tracker import WaveRecord
from scen.waves.journal import Journal


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
