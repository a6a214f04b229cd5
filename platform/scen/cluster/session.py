"""The connection to a Ray cluster."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from scen.errors import ConfigError

# What Ray would otherwise choose by itself, and differently per release or host.
_ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
}

_PASSED_ON = ("MLFLOW_TRACKING_URI", "HF_HUB_OFFLINE", "HF_ENDPOINT")


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
def ray_session(address: str, *, show_workers: bool = False) -> Iterator[Any]:
    """Ray, connected to a cluster: host:port, or `auto` inside a job. `local` starts one here.

    With `show_workers`, what tasks write to stderr appears here. Raises ConfigError where it cannot
    be reached.
    """
    prepare_environment()
    import ray

    options: dict[str, Any] = {"log_to_driver": show_workers, "configure_logging": False}
    if address == "local":
        options |= {"include_dashboard": False}
    try:
        ray.init(address=address, ignore_reinit_error=True, **options)
    except (ConnectionError, RuntimeError, ValueError) as err:
        raise ConfigError(f"--address: no Ray cluster can be reached at {address} ({err})") from err
    try:
        yield ray
    finally:
        ray.shutdown()
