"""The seam between waves and whatever keeps their history."""

from typing import Protocol

from scen.tracking.wave_record import WaveRecord


class Tracker(Protocol):
    """Keeps the history of waves."""

    def track_wave(self, record: WaveRecord) -> str | None:
        """Keep a committed wave, once; the run's id where there is one. Raises ScenError."""
        ...


class NullTracker:
    """Keeps nothing."""

    def track_wave(self, record: WaveRecord) -> str | None:
        """Nothing is kept, so there is no run id."""
        return None
