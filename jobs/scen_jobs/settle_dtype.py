"""The number type of a base, where the workers have GPUs and the driver's machine may have none."""

import argparse
from collections.abc import Callable

from scen.cli.settings import read_config
from scen.cluster.sharding import measure_dtype
from scen.config import ClusterConfig
from scen.fs import Storage
from scen.ledger.manifest import stored_method


def settle_dtype(
    args: argparse.Namespace, measure: Callable[[ClusterConfig, str], str] = measure_dtype
) -> None:
    """Let --dtype be what `auto` means on a worker with a GPU, unless the store's own type holds.
    Wants a connected Ray. Raises ConfigError for settings that are wrong."""
    method = stored_method(Storage(args.store))
    config = read_config(args, getattr(args, "method", None) or method)
    is_bound = method is not None and config.base.name is None
    if config.base.dtype == "auto" and config.cluster.gpus_per_worker > 0 and not is_bound:
        args.dtype = measure(config.cluster, config.base.device)
