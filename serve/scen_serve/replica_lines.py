"""The log of replicas on a Ray of this process's own, in the log of this process."""

import logging
import sys
from typing import Any

from ray._private.ray_logging import global_worker_stdstream_dispatcher

from scen_serve.logs import LogFormat


def show_replica_lines(form: LogFormat) -> None:
    """Write what replicas write to stderr to this process's, as it stands (in the form `json`,
    only what is JSON), and nothing else of Ray's workers. Serve's own words go the log's way."""

    def show(batch: dict[str, Any]) -> None:
        if str(batch.get("actor_name")).startswith("ServeReplica:") and batch["is_err"]:
            lines = [line for line in batch["lines"] if form == "text" or line.startswith("{")]
            sys.stderr.write("".join(f"{line}\n" for line in lines))
            sys.stderr.flush()

    global_worker_stdstream_dispatcher.remove_handler("ray_print_logs")  # with a prefix
    global_worker_stdstream_dispatcher.add_handler("scen", show)
    serve = logging.getLogger("ray.serve")
    serve.handlers, serve.propagate = [], True
