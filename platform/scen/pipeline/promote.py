"""A wave that the gate holds is committed all the same."""

from scen.config import WaveConfig
from scen.fs import Storage
from scen.pipeline.runtime import tracking_uri_of
from scen.registry.ledger import Ledger, open_ledger
from scen.tracking.wave_runs import open_tracker
from scen.waves.gate import promote, read_candidate
from scen.waves.journal import Journal
from scen.waves.track_wave import WaveDiary


def promote_wave(storage: Storage, key: str, rules: WaveConfig, *, is_tracked: bool) -> int:
    """Commit and track a held wave; the version that holds it. Raises as `promote` does."""
    ledger = open_ledger(storage)
    version = promote(storage, ledger, key, rules)
    if is_tracked:
        _track(storage, ledger, key, version)
    return version


def _track(storage: Storage, ledger: Ledger, key: str, version: int) -> None:
    journal = Journal(storage, key)
    tracker = open_tracker(tracking_uri_of(storage))
    diary = WaveDiary(storage, tracker, str(ledger.manifest.base["name"]))
    found = journal.read("evaluated") | {"losses": journal.read("trained")["losses"]}
    diary.track(read_candidate(storage, key).wave, journal, found, version)
