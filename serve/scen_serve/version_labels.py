"""The label `version` of metrics: as many versions as anybody looks at, however many there were."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence

from prometheus_client.metrics import MetricWrapperBase

from scen_serve.request import Routed

_KEPT = 8
NO_VERSION = "none"


class VersionLabels:
    """Keeps the label sets of the versions that are served, and of those that answered last, and
    drops all others from the metrics. May be used by many threads.

    `live` tells the versions that are served. At most 8 are kept, or all that are live.
    """

    def __init__(
        self, metrics: Sequence[MetricWrapperBase], live: Callable[[], Collection[int]]
    ) -> None:
        self._metrics = metrics
        self._live = live
        self._used: OrderedDict[int, None] = OrderedDict()  # the last one is the newest
        self._lock = threading.Lock()

    def of(self, routed: Routed | None) -> str:
        """The label of a route's version; `none` where there is no route."""
        if routed is None:
            return NO_VERSION
        with self._lock:
            is_new = routed.version not in self._used
            self._used[routed.version] = None
            self._used.move_to_end(routed.version)
            if is_new and len(self._used) > _KEPT:
                self._drop_others()
        return str(routed.version)

    def _drop_others(self) -> None:
        live = set(self._live())
        for version in [used for used in self._used if used not in live]:
            if len(self._used) <= _KEPT:
                break
            del self._used[version]
            for metric in self._metrics:
                metric.remove_by_labels({"version": str(version)})
