"""The connection to a Ray cluster, and news of new versions from a store's registry."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from scen.errors import ConfigError
from scen.records import digest_json

# What Ray would otherwise choose by itself, and differently per release or host.
_ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
}

_PASSED_ON = ("MLFLOW_TRACKING_URI", "HF_HUB_OFFLINE", "HF_ENDPOINT")

TOKEN_HELP = (
    "name the file with the cluster's token in RAY_AUTH_TOKEN_PATH, or put it at ~/.ray/auth_token "
    "(`ray get-auth-token --generate` makes one, before the cluster is started); a cluster that "
    "goes without tokens, on a network that you trust, wants RAY_AUTH_MODE=disabled here"
)
_KNOCK_S = 10.0  # for a host to answer at all; Ray itself would try for minutes


def prepare_environment() -> None:
    """Settle what Ray reads from the environment; before anything imports ray."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def passed_on() -> dict[str, str]:
    """What of this process's environment the cluster's processes must know too."""
    return {name: os.environ[name] for name in _PASSED_ON if name in os.environ}


def worker_environment(gpus_per_worker: float) -> dict[str, str]:
    """Environment of the workers: DeepSpeed's device, and no threads that fight each other."""
    found = {"TOKENIZERS_PARALLELISM": "false"}
    return found if gpus_per_worker else found | {"DS_ACCELERATOR": "cpu"}


@contextmanager
def connecting(address: str, advice: str) -> Iterator[None]:
    """For a block that connects to a cluster: raises ConfigError where the cluster refuses the
    token, or where none is found there, which `advice` helps with."""
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as err:
        cause = err.message.split("\n", 1)[0].rstrip(". ")
        raise ConfigError(f"--address: {address}: {cause}; {TOKEN_HELP}") from err
    # LookupError: an answer of JSON that is not Ray's.
    except (OSError, RuntimeError, ValueError, LookupError) as err:
        cause = (str(err) or type(err).__name__).splitlines()[0].rstrip(". ")
        raise ConfigError(f"--address: {advice} ({cause})") from err


@contextmanager
def ray_session(address: str, *, show_workers: bool = False) -> Iterator[Any]:
    """Ray, connected to a cluster: host:port, or `auto` inside a job. `local` starts one here.

    With `show_workers`, what tasks write to stderr appears here. Raises ConfigError where it cannot
    be reached, or refuses the token.
    """
    prepare_environment()
    import ray

    options: dict[str, Any] = {"log_to_driver": show_workers, "configure_logging": False}
    if address == "local":
        options |= {"include_dashboard": False}
    advice = f"no Ray cluster can be reached at {address}; if one runs there, {TOKEN_HELP}"
    with connecting(address, advice):
        _knock(address)
        ray.init(address=address, ignore_reinit_error=True, **options)
    try:
        yield ray
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raises OSError or ValueError where nothing listens at host:port."""
    host, found, port = address.rpartition(":")
    if found and "://" not in address:
        socket.create_connection((host.strip("[]"), int(port)), _KNOCK_S).close()


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
