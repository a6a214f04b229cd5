"""What MLflow's model registry is told of the versions and the held waves of a store."""

from importlib.resources import files
from pathlib import Path

from scen.fs import Storage
from scen.ledger.ledger import Ledger
from scen.ledger.log import LogEntry
from scen.ledger.pointer import HeldWave, SnapshotPointer, bank_rows, point_at
from scen.ledger.state import Snapshot
from scen.tracking.model_record import ModelRecord
from scen.waves.admit import admit
from scen.waves.gate import Candidate
from scen.waves.journal import Journal


def committed_record(
    storage: Storage, ledger: Ledger, snapshot: Snapshot, entry: LogEntry | None
) -> ModelRecord:
    """A version of the ledger; `entry` is its commit, None for a store without edits."""
    pointer = point_at(storage.uri, ledger.manifest, snapshot)
    tags = {"scen.edits": str(len(snapshot.entries))}
    told, run = "a store without edits", None
    if entry is not None:
        tags |= {"scen.action": entry.action, "scen.stream": entry.stream[:1000]}
        told = f"{entry.action} by {entry.who}, {entry.committed_at.isoformat(timespec='seconds')}"
        told += f": {entry.why[:1000]}" if entry.why else ""
        run = (entry.stream, entry.wave_key) if entry.wave_key else None
    return ModelRecord(
        version=snapshot.version,
        wave=None,
        name=f"version-{snapshot.version:04d}",
        description=f"Version {snapshot.version} of the ledger, {len(snapshot.entries)} edits: "
        f"{told}.",
        tags=tags,
        code=_code(),
        pointer=pointer.to_dict(),
        places=_places(pointer),
        run=run,
    )


def held_record(
    storage: Storage, ledger: Ledger, snapshot: Snapshot, candidate: Candidate
) -> ModelRecord:
    """What a held wave would make of a version, if it took the place of all that it contradicts."""
    wave = candidate.wave
    bundle = Journal(storage, wave.key).read("trained")["bundle"]
    replaces = tuple(admit(wave.edits, snapshot, "supersede").replaces)
    held = HeldWave(wave.key, bundle, tuple(edit.id for edit in wave.edits), replaces)
    pointer = point_at(storage.uri, ledger.manifest, snapshot, held)
    num_edits = len(bank_rows(snapshot, held))
    return ModelRecord(
        version=snapshot.version,
        wave=wave.key,
        name=f"held-{wave.key.replace('.', '-')}",
        description=f"Wave {wave.key} on top of version {snapshot.version}, {num_edits} edits. The "
        f"gate holds it since {candidate.held_at}: {'; '.join(candidate.reasons)}.",
        tags={"scen.edits": str(num_edits), "scen.action": "held", "scen.stream": wave.stream},
        code=_code(),
        pointer=pointer.to_dict(),
        places=_places(pointer),
    )


def _places(pointer: SnapshotPointer) -> dict[str, str]:
    """What may be given otherwise when the model is loaded."""
    return {"store": pointer.store, "base": pointer.base["name"], "device": "auto"}


def _code() -> Path:
    return Path(str(files("scen.export"))) / "logged_model.py"
