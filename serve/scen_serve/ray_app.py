"""The server as a Ray Serve application: each replica holds the whole model, with vLLM on several
devices if need be.

Cheap to import: Serve calls `build` on each deployment; replicas import the rest.
"""

import logging
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any

import pydantic
import ray
from prometheus_client import CollectorRegistry
from ray import serve
from ray._private.ray_logging import global_worker_stdstream_dispatcher
from ray.util.metrics import Counter, Gauge

from scen.errors import ConfigError
from scen_serve.api.access import check_address, read_key_file
from scen_serve.settings import ServerArgs
from scen_serve.telemetry import LogFormat, setup_logs

_EVERY_S = 5.0
log = logging.getLogger(__name__)
_FIRST_SNAPSHOT_S = 60.0


class AppArgs(ServerArgs):
    """The arguments of a server, the bounds on the number of replicas, and the GPUs of a replica's
    device: 1 for a base on a GPU, a fraction if replicas share one, 0 on CPUs.

    With `vllm.tensor_parallel_size` N, a replica has N devices, each with a CPU and `num_gpus`
    GPUs, on as few nodes as possible.
    """

    min_replicas: int = pydantic.Field(1, ge=1)
    max_replicas: int = pydantic.Field(1, ge=1)
    num_gpus: float = pydantic.Field(0.0, ge=0, le=1)

    @property
    def num_devices(self) -> int:
        """Devices of a replica."""
        return self.vllm.tensor_parallel_size if self.engine == "vllm" else 1

    @property
    def is_spread(self) -> bool:
        """True if Ray places the devices of a replica, each on its own GPUs."""
        return self.num_devices > 1 and self.num_gpus > 0

    def resources(self) -> dict[str, Any]:
        """The options of the deployment for what a replica needs. vLLM's workers on GPUs take the
        bundles after the first, which is the replica's own."""
        if not self.is_spread:
            return {"ray_actor_options": {"num_cpus": self.num_devices, "num_gpus": self.num_gpus}}
        device = {"CPU": 1, "GPU": self.num_gpus}
        return {
            "ray_actor_options": {"num_cpus": 1, "num_gpus": 0},
            "placement_group_bundles": [{"CPU": 1}, *[device] * self.num_devices],
            "placement_group_strategy": "PACK",
        }

    def server_args(self) -> dict[str, Any]:
        """The arguments of a replica's server: vLLM starts its workers through Ray if spread."""
        plain = self.model_dump(exclude={"min_replicas", "max_replicas", "num_gpus"})
        if self.is_spread:
            options = {"distributed_executor_backend": "ray"} | self.vllm.options
            plain["vllm"]["options"] = options
        return plain


@serve.ingress()
class Replica:
    """One engine and the app in front of it. Accepts requests once a snapshot is loaded."""

    def __init__(self, args: dict[str, Any]) -> None:
        """Raises RuntimeError if no version of the store can be loaded within a minute, and
        ConfigError if other machines could send requests without a key."""
        from scen.cluster.session import RegistryListener
        from scen.fs import Storage
        from scen_serve.main import build_app, build_service

        parsed = ServerArgs.model_validate(args)
        if parsed.vllm.options.get("distributed_executor_backend") == "ray":
            address = f"tcp://{ray.util.get_node_ip_address()}:*"
            vllm = parsed.vllm.model_copy(update={"address": address})
            parsed = parsed.model_copy(update={"vllm": vllm})
        setup_logs(parsed.log_format, parsed.log_level, is_guest=True)
        check_proxy(parsed, proxy_host())
        keys = read_key_file(parsed.key_file)
        self._service = build_service(
            parsed, announcements=RegistryListener(Storage(parsed.store).uri)
        )
        self._app = build_app(parsed, self._service, keys)
        self._stop = threading.Event()
        self._is_cold = True
        self._load_first()

    def __serve_build_asgi_app__(self) -> Any:  # called by Serve
        metrics = RayMetrics(self._app.state.metrics.registry)
        threading.Thread(target=metrics.run, args=(self._stop,), daemon=True).start()
        return self._app

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Apply `user_config`: `version` N overrides the store's policy; `latest` ends that.

        Never raises, and returns immediately on a warm replica: the follower loads the version
        while the replica keeps serving its current one. A new replica loads it first.
        """
        version = (user_config or {}).get("version", "latest")
        if version == "latest" or (isinstance(version, int) and version >= 0):
            self._service.follower.pinned = None if version == "latest" else version
        else:
            log.error("user_config.version: %r is neither a number nor latest; ignored", version)
        if self._is_cold:
            self._service.follower.look()
        self._is_cold = False

    def check_health(self) -> None:
        """Called by Serve. Raises RuntimeError if the engine has stopped."""
        if not self._service.is_healthy:
            raise RuntimeError("the engine has stopped")

    def _load_first(self) -> None:
        until = time.monotonic() + _FIRST_SNAPSHOT_S
        while self._service.engine.snapshot is None:
            self._service.follower.look()
            if time.monotonic() > until:
                raise RuntimeError(f"no snapshot can be loaded: {self._service.follower.error}")
            time.sleep(0.1)


def proxy_host() -> str | None:
    """The address on which this cluster's Serve proxies listen; None without Serve."""
    if not ray.is_initialized():
        return None
    client = serve.context._get_global_client(raise_if_no_controller_running=False)
    return None if client is None else client.http_config.host


def check_proxy(args: ServerArgs, host: str | None) -> None:
    """Raises ConfigError if other machines can reach the proxies, and `args` have neither a key
    file nor `allow_open`."""
    if host is not None and args.key_file is None:
        check_address(host, (), args.allow_open)


def build(args: AppArgs) -> serve.Application:
    """The application; `serve deploy` imports it as `scen_serve.ray_app:build`. Raises ConfigError
    if `max_replicas` is below `min_replicas`, and as `check_proxy` does."""
    check_proxy(args, proxy_host())
    if args.max_replicas < args.min_replicas:
        raise ConfigError(
            f"max_replicas: {args.max_replicas} is less than min_replicas {args.min_replicas}"
        )
    deployment = serve.deployment(
        name="Edited",
        # A full batch, and as many again in the queue.
        max_ongoing_requests=2 * args.max_rows,
        max_queued_requests=args.max_waiting,
        autoscaling_config={
            "min_replicas": args.min_replicas,
            "max_replicas": args.max_replicas,
            "target_ongoing_requests": max(1, args.max_rows // 2),
            "upscale_delay_s": 3,
            "downscale_delay_s": 30,
            "look_back_period_s": 5,
            "metrics_interval_s": 1,
        },
        backpressure_config={"status_code": 429, "retry_after_s": 1},
        graceful_shutdown_timeout_s=args.timeout_s,
        health_check_period_s=3,
        health_check_timeout_s=30,
        **args.resources(),
        logging_config={
            "encoding": args.log_format.upper(),
            "log_level": args.log_level.upper(),
            "enable_access_log": False,  # replicas log each request themselves, in more detail
        },
    )(Replica)
    return deployment.bind(args.server_args())


Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Change:
    """One sample to export: the increment of a counter, or the value of a gauge."""

    name: str
    text: str
    labels: Labels
    value: float
    is_gauge: bool


class Changes:
    """Changes of a registry since the last call. Histograms are exported as counters."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._seen: dict[tuple[str, Labels], float] = {}

    def take(self) -> list[Change]:
        """Values of gauges and of counters labelled by version; increments of other counters.

        Counters labelled by version are exported as gauges: Ray drops a gauge that is no longer
        set, but never a counter, so those of old versions would accumulate.
        """
        changes = []
        for family in self._registry.collect():
            for sample in family.samples:
                if sample.name.endswith("_created"):
                    continue
                name, labels = sample.name.removesuffix("_total"), tuple(sample.labels.items())
                text = family.documentation
                if family.type == "gauge":
                    changes.append(Change(name, text, labels, sample.value, True))
                elif "version" in sample.labels:
                    changes.append(Change(f"{name}_total", text, labels, sample.value, True))
                elif (increment := sample.value - self._seen.get((name, labels), 0.0)) > 0:
                    self._seen[name, labels] = sample.value
                    changes.append(Change(name, text, labels, increment, False))
        return changes


class RayMetrics:
    """Exports the samples of a registry through Ray, under their own names prefixed with `ray_`.

    All counters, including those of histograms, end in `_total` (`ray_scen_tokens_total`,
    `ray_scen_request_seconds_bucket_total`): Ray's own histogram would have a wrong sum.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._changes = Changes(registry)
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}

    def run(self, stop: threading.Event) -> None:
        """Export every few seconds until `stop` is set."""
        while not stop.wait(_EVERY_S):
            for change in self._changes.take():
                self._set(change)

    def _set(self, change: Change) -> None:
        name, text, keys = change.name, change.text, tuple(key for key, _ in change.labels)
        if change.is_gauge:
            gauge = self._gauges.get(name) or Gauge(name, text, keys)
            self._gauges[name] = gauge
            gauge.set(change.value, dict(change.labels))
        else:
            counter = self._counters.get(name) or Counter(name, text, keys)
            self._counters[name] = counter
            counter.inc(change.value, dict(change.labels))


def show_replica_lines(form: LogFormat) -> None:
    """Copy the replicas' stderr lines unchanged to this process's stderr (with `json`, only JSON
    lines), and drop all other worker output. Serve's own messages go to this process's log."""

    def show(batch: dict[str, Any]) -> None:
        if str(batch.get("actor_name")).startswith("ServeReplica:") and batch["is_err"]:
            lines = [line for line in batch["lines"] if form == "text" or line.startswith("{")]
            sys.stderr.write("".join(f"{line}\n" for line in lines))
            sys.stderr.flush()

    global_worker_stdstream_dispatcher.remove_handler("ray_print_logs")  # it adds a prefix
    global_worker_stdstream_dispatcher.add_handler("scen", show)
    serve = logging.getLogger("ray.serve")
    serve.handlers, serve.propagate = [], True
