"""The tiny store on a real Ray Serve, its registry in the same cluster, and clients of both."""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest

from cluster.ray_head import Head
from scen.cluster.registry import RegistryClient
from scen.cluster.session import NAMESPACE, ray_session, registry_name
from scen.snapshot.open import OpenStore
from scen_serve.api.errors import PROXY_CALLBACK
from unit.serve.conftest import NEW, make_store

# Before the head is started: its processes take it from there.
os.environ.setdefault("RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH", PROXY_CALLBACK)


@dataclass(frozen=True)
class Told:
    """One answer of a replica, or the error that came instead."""

    prompt: str
    text: str = ""
    version: int = -1
    error: Exception | None = None


@dataclass(frozen=True)
class Deployed:
    """A store on Ray Serve, and a client of it."""

    store: OpenStore
    client: openai.OpenAI
    serve: Any
    options: dict[str, Any]

    def deploy(self, tuning: dict[str, Any] | None = None, **user_config: object) -> None:
        """Deploy the app anew, as a changed file does."""
        from ray.serve.schema import ServeDeploySchema

        edited = {"name": "Edited", **TUNING, **(tuning or {}), "user_config": user_config}
        app = {
            "name": "edited",
            "import_path": "scen_serve.ray_app:build",
            "args": self.options,
            "deployments": [edited],
        }
        schema = ServeDeploySchema.model_validate({"applications": [app]})
        self.serve.context._global_client.deploy_apps(schema)
        wait_until(lambda: self.serve.status().applications["edited"].status == "RUNNING")

    def ask(self, prompt: str) -> Told:
        """A chat of one prompt; errors are told, not raised."""
        try:
            told = self.client.chat.completions.create(
                model="tiny", messages=[{"role": "user", "content": prompt}], max_tokens=NEW
            )
        except openai.APIError as error:
            return Told(prompt, error=error)
        field = told.scen  # type: ignore[attr-defined]
        return Told(prompt, told.choices[0].message.content or "", field["version"])

    def replicas(self) -> int:
        """How many replicas answer."""
        status = self.serve.status().applications["edited"].deployments["Edited"]
        return int(status.replica_states.get("RUNNING", 0))


TUNING = {
    "autoscaling_config": {
        "min_replicas": 1,
        "max_replicas": 2,
        "target_ongoing_requests": 3,
        "upscale_delay_s": 1,
        "downscale_delay_s": 3,
        "look_back_period_s": 3,
        "metrics_interval_s": 1,
    },
    "graceful_shutdown_timeout_s": 60,
}


@pytest.fixture(scope="module")
def app(
    head: Head, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployed]:
    """The tiny store with 32 edits, deployed."""
    store = make_store(tiny_folder, tmp_path_factory.mktemp("served") / "store")
    with socket.socket() as some:
        some.bind(("127.0.0.1", 0))
        port = some.getsockname()[1]
    options = {"store": store.storage.uri, "model_name": "tiny", "max_rows": 8, "poll_s": 0.2}
    with ray_session(head.address) as ray:
        from ray import serve

        RegistryClient(store.storage.uri).call("info")  # starts it
        serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
        url = f"http://127.0.0.1:{port}/v1"
        with openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=120) as client:
            deployed = Deployed(store, client, serve, options)
            deployed.deploy(version="latest")
            yield deployed
        serve.shutdown()
        with contextlib.suppress(ValueError):  # a test has ended it
            name = registry_name(store.storage.uri)
            ray.kill(ray.get_actor(name, NAMESPACE), no_restart=True)


class Load:
    """Clients that ask without a pause, each one request at a time, until they are stopped."""

    def __init__(self, app: Deployed, prompts: list[str], clients: int) -> None:
        self.told: list[Told] = []
        self._app, self._prompts = app, prompts
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(clients)
        self._running = [self._pool.submit(self._run, i) for i in range(clients)]

    def stop(self) -> list[Told]:
        """All answers, once the last client has its own."""
        self._stop.set()
        for running in self._running:
            running.result()
        self._pool.shutdown()
        return self.told

    def _run(self, index: int) -> None:
        while not self._stop.is_set():
            self.told.append(self._app.ask(self._prompts[index % len(self._prompts)]))
            index += 1


def wait_until(what: Any, limit_s: float = 120) -> None:
    """Until it holds. Raises AssertionError after the limit."""
    until = time.monotonic() + limit_s
    while not what():
        assert time.monotonic() < until, "it never came to be"
        time.sleep(0.1)
