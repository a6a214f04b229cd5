"""Opens the tracker of a run: a server that is down must not stop it."""

from scen.tracking.mlflow_tracker import MlflowTracker
from scen.tracking.tracker import Tracker
from scen.tracking.wave_record import WaveRecord


def open_tracker(tracking_uri: str) -> Tracker:
    """The tracker at a URI. A file is opened at once, and raises ConfigError where it cannot be; a
    server is opened when there is something to tell it."""
    if tracking_uri.startswith(("http://", "https://")):
        return ServerTracker(tracking_uri)
    return MlflowTracker(tracking_uri)


class ServerTracker:
    """An MLflow server that may be down now and up later."""

    def __init__(self, tracking_uri: str) -> None:
        self.tracking_uri = tracking_uri
        self._tracker: MlflowTracker | None = None

    def track_wave(self, record: WaveRecord) -> str:
        """As `MlflowTracker` does. Raises ScenError while the server does not answer."""
        if self._tracker is None:
            self._tracker = MlflowTracker(self.tracking_uri)
        return self._tracker.track_wave(record)
