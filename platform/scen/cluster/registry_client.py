"""How other processes reach the registry of a store: by name, with a limit on every call.

Wants a connected Ray (`ray_session`). A call that finds the registry dead, hung or unreachable
looks it up again, starts it where it is gone, and is repeated: every call may be.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

from scen.cluster.registry import Registry
from scen.cluster.registry_news import NAMESPACE, registry_name
from scen.errors import ScenError

_TRIES = 8
_PAUSE_S = 0.2  # before a second try; twice as long before each further one
_PING_S = 5.0


class MeteredRegistry(Registry):
    """A registry whose numbers Ray shows to Prometheus, as ray_scen_registry_<name>."""

    def _told(self, numbers: Mapping[str, int]) -> None:
        from ray.util.metrics import Gauge

        for name, value in numbers.items():
            gauge = Gauge(f"scen_registry_{name}", tag_keys=("store",))
            gauge.set(value, tags={"store": self._uri})


class RegistryClient:
    """The registry of one store. `timeout_s` is the limit of one try of a call."""

    def __init__(
        self, uri: str, options: dict[str, str] | None = None, timeout_s: float = 60.0
    ) -> None:
        self._uri, self._options, self._timeout_s = uri, options, timeout_s
        self._actor: Any = None

    def call(self, method: str, *args: Any, timeout_s: float | None = None) -> Any:
        """The result of a method of `Registry`. Raises what it raises, or ScenError where the
        registry cannot be reached after several tries. `timeout_s` is beside the client's."""
        limit = self._timeout_s + (timeout_s or 0.0)
        return self._try(lambda actor: getattr(actor, method).remote(*args), limit)

    def wait(self, version: int, timeout_s: float) -> int:
        """The newest version, as soon as it is above `version`, or after a time."""
        return int(self.call("wait", version, timeout_s, timeout_s=timeout_s))

    def replace(self) -> dict[str, Any]:
        """Put a registry with this code in place of the one that runs; its `info()`. The ledger
        keeps everything, and a write that the old one still tries is refused."""
        import ray

        self._look_up()
        ray.kill(self._actor, no_restart=True)
        self._actor = None
        info: dict[str, Any] = self.call("info")
        return info

    def _try(self, start: Callable[[Any], Any], limit_s: float) -> Any:
        import ray
        from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

        cause: Exception | None = None
        for attempt in range(_TRIES):
            if attempt:
                time.sleep(_PAUSE_S * 2 ** (attempt - 1))
            try:
                if self._actor is None:
                    self._look_up()
                return ray.get(start(self._actor), timeout=limit_s)
            except GetTimeoutError as err:
                cause = err
                self._restart_if_hung()
            except RayTaskError as err:
                raise err.cause if isinstance(err.cause, ScenError) else err from None
            except (RayActorError, ValueError) as err:
                cause, self._actor = err, None
        raise ScenError(f"registry: it does not answer ({cause}); is the cluster up?") from cause

    def _look_up(self) -> None:
        """Find the registry by its name, or start it."""
        import ray

        options: dict[str, Any] = {
            "name": registry_name(self._uri),
            "namespace": NAMESPACE,
            "lifetime": "detached",
            "get_if_exists": True,
            "max_restarts": -1,
            "max_task_retries": -1,
            "num_cpus": 0,
        }
        actor: Any = ray.remote(MeteredRegistry)
        self._actor = actor.options(**options).remote(self._uri, self._options)

    def _restart_if_hung(self) -> None:
        """End a process that does not even say who it is; Ray starts another in its place."""
        import ray
        from ray.exceptions import GetTimeoutError, RayActorError

        try:
            ray.get(self._actor.info.remote(), timeout=_PING_S)
        except GetTimeoutError:
            ray.kill(self._actor, no_restart=False)
        except RayActorError:
            self._actor = None
