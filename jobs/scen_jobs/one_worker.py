"""Jobs whose work is done whole by a worker: what each worker gets, and what it found."""

import argparse
from typing import Any

from scen.cluster.session import passed_on, worker_environment
from scen.errors import ScenError


def worker_parser() -> argparse.ArgumentParser:
    """--cpus and --gpus of a worker, beside words that are not the job's own."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--cpus", type=float, default=1)
    parser.add_argument("--gpus", type=float, default=0)
    return parser


def worker_options(own: argparse.Namespace) -> dict[str, Any]:
    """The options of `ray.remote` that these words come to."""
    environment = {"env_vars": worker_environment(own.gpus) | passed_on()}
    return {"num_cpus": own.cpus, "num_gpus": own.gpus, "runtime_env": environment}


def result_of(ray: Any, reference: Any) -> Any:
    """What a worker found. Raises the ScenError that it raised."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as err:
        if isinstance(err.cause, ScenError):
            raise err.cause from err
        raise
