"""Following the registry of a store from a process that must not depend on it: it is found by its
name, never started, ended or waited for longer than was said."""

import logging
from typing import Any

from scen.records import digest_json

log = logging.getLogger(__name__)
NAMESPACE = "scen"
_LATE_S = 2.0  # an answer that is later than this will not come


def registry_name(uri: str) -> str:
    """The name of a store's registry in a cluster."""
    return f"registry-{digest_json(uri)[:16]}"


class RegistryNews:
    """What the registry of a store tells of new versions, in a process that is connected to Ray."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._actor: Any = None

    def wait(self, version: int, timeout_s: float) -> int | None:
        """The newest version, as soon as it is above `version`, or after a time; None where there
        is no registry, or it does not answer. Raises nothing."""
        import ray

        try:
            if self._actor is None:
                self._actor = ray.get_actor(registry_name(self._uri), NAMESPACE)
            told = self._actor.wait.remote(version, timeout_s)
            return int(ray.get(told, timeout=timeout_s + _LATE_S))
        except Exception as error:  # it is gone, hangs, is damaged, or Ray itself is
            log.debug("the registry of %s tells nothing: %s", self._uri, error)
            self._actor = None
            return None
