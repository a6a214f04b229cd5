"""The connection to a Ray cluster, and notification of new versions by a store's registry."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from scen.errors import ConfigError
from scen.records import digest_json

# Ray's own defaults for these differ between releases or hosts.
_ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
}

_PASSED_ON = ("MLFLOW_TRACKING_URI", "HF_HUB_OFFLINE", "HF_ENDPOINT", "SCEN_PROFILE")

TOKEN_HELP = (
    "name the file with the cluster's token in RAY_AUTH_TOKEN_PATH, or put it at ~/.ray/auth_token "
    "(`ray get-auth-token --generate` makes one, before the cluster is started); a cluster that "
    "uses no tokens, on a network that you trust, needs RAY_AUTH_MODE=disabled here"
)
_CONNECT_S = 10.0  # for a host to accept a connection; Ray itself would try for minutes


def prepare_environment() -> None:
    """Set the environment variables that Ray reads; call it before ray is imported."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def passed_on() -> dict[str, str]:
    """The environment variables of this process that the cluster's processes need too."""
    return {name: os.environ[name] for name in _PASSED_ON if name in os.environ}


def worker_environment(gpus_per_worker: float) -> dict[str, str]:
    """Environment variables of the workers: DeepSpeed's device, and no tokenizer threads."""
    variables = {"TOKENIZERS_PARALLELISM": "false"}
    return variables if gpus_per_worker else variables | {"DS_ACCELERATOR": "cpu"}


@contextmanager
def connecting(address: str, advice: str) -> Iterator[None]:
    """For a block that connects to a cluster: raises ConfigError if the cluster refuses the token,
    or, with `advice`, if no cluster is found at the address."""
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as err:
        cause = err.message.split("\n", 1)[0].rstrip(". ")
        raise ConfigError(f"--address: {address}: {cause}; {TOKEN_HELP}") from err
    # LookupError: a JSON response that is not Ray's.
    except (OSError, RuntimeError, ValueError, LookupError) as err:
        cause = (str(err) or type(err).__name__).splitlines()[0].rstrip(". ")
        raise ConfigError(f"--address: {advice} ({cause})") from err


@contextmanager
def ray_session(address: str, *, show_workers: bool = False) -> Iterator[Any]:
    """Ray, connected to a cluster: host:port, or `auto` inside a job. `local` starts one here.

    With `show_workers`, stderr of tasks is shown here. Raises ConfigError if the cluster cannot be
    reached or refuses the token.
    """
    prepare_environment()
    import ray

    options: dict[str, Any] = {"log_to_driver": show_workers, "configure_logging": False}
    if address == "local":
        options |= {"include_dashboard": False}
    advice = f"no Ray cluster can be reached at {address}; if one runs there, {TOKEN_HELP}"
    with connecting(address, advice):
        _require_listener(address)
        ray.init(address=address, ignore_reinit_error=True, **options)
    try:
        yield ray
    finally:
        ray.shutdown()


def _require_listener(address: str) -> None:
    """Raises OSError or ValueError if nothing listens at host:port."""
    host, colon, port = address.rpartition(":")
    if colon and "://" not in address:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_S).close()


log = logging.getLogger(__name__)
NAMESPACE = "scen"
_LATE_S = 2.0  # grace period for an answer


def registry_name(uri: str) -> str:
    """The name of a store's registry in a cluster."""
    return f"registry-{digest_json(uri)[:16]}"


class RegistryListener:
    """Waits for new versions at the registry of a store, in a process connected to Ray."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._actor: Any = None

    def wait(self, version: int, timeout_s: float) -> int | None:
        """Wait for a version above `version`, at most `timeout_s`; returns the newest version, or
        None if there is no registry or it does not answer. Never raises."""
        import ray

        try:
            if self._actor is None:
                self._actor = ray.get_actor(registry_name(self._uri), NAMESPACE)
            answer = self._actor.wait.remote(version, timeout_s)
            return int(ray.get(answer, timeout=timeout_s + _LATE_S))
        except Exception as error:  # no registry, no answer, or a failure of Ray
            log.debug("the registry of %s does not answer: %s", self._uri, error)
            self._actor = None
            return None
