"""The server on a real Ray: replicas come and go, versions are swapped, and nobody notices."""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest

from cluster.ray_head import Head
from scen.cluster.session import ray_session
from scen.snapshot.open import OpenStore
from unit.serve.conftest import NEW, alone, commit_wave, make_store, serve_edits, unrelated

pytestmark = [pytest.mark.cluster, pytest.mark.filterwarnings("ignore::ResourceWarning")]


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

    def deploy(self, **user_config: object) -> None:
        """Deploy the app anew, as a changed file does."""
        from ray.serve.schema import ServeDeploySchema

        edited = {"name": "Edited", **TUNING, "user_config": user_config}
        app = {
            "name": "edited",
            "import_path": "scen_serve.ray_app:build",
            "args": self.options,
            "deployments": [edited],
        }
        schema = ServeDeploySchema.model_validate({"applications": [app]})
        self.serve.context._global_client.deploy_apps(schema, _blocking=True)

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
    with ray_session(head.address):
        from ray import serve

        serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
        client = openai.OpenAI(
            base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=120
        )
        deployed = Deployed(store, client, serve, options)
        deployed.deploy(version="latest")
        yield deployed
        serve.shutdown()


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


def test_replicas_answer_as_one_engine_does(app: Deployed) -> None:
    prompts = [serve_edits(1, 5)[0].prompt, unrelated(1)[0]]
    for prompt in prompts:
        told = app.ask(prompt)
        assert (told.error, told.version) == (None, 2)
        assert told.text == alone(app.store, prompt)
    chunks = app.client.completions.create(
        model="tiny", prompt=prompts[0], max_tokens=NEW, stream=True
    )
    assert "".join(c.choices[0].text for c in chunks) == alone(app.store, prompts[0])


def test_ray_exports_what_replicas_did(app: Deployed, head: Head) -> None:
    app.ask(serve_edits(1, 5)[0].prompt)

    def exported() -> str:
        text = httpx.get(head.metrics).text
        return "\n".join(line for line in text.splitlines() if line.startswith("ray_scen_"))

    wait_until(lambda: "ray_scen_tokens_total" in exported())
    found = exported()
    assert 'route="edit"' in found
    assert "ray_scen_request_seconds_bucket_total" in found
    version = next(x for x in found.splitlines() if x.startswith("ray_scen_serving_version"))
    assert float(version.rsplit(" ", 1)[1]) == 2


def test_a_version_that_does_not_exist_changes_nothing(app: Deployed) -> None:
    """Nor does a wrong word: the replica stays, on the version that it has."""
    prompt = serve_edits(1, 25)[0].prompt
    for wrong in (99, "newest"):
        app.deploy(version=wrong)
        assert app.ask(prompt).version == 2
    app.deploy(version=1)
    wait_until(lambda: app.ask(prompt).version == 1)
    app.deploy(version="latest")
    wait_until(lambda: app.ask(prompt).version == 2)


def test_one_two_one_replicas_under_load_and_a_commit(app: Deployed) -> None:
    new = serve_edits(1, 40)[0]
    prompts = [new.prompt, serve_edits(1, 3)[0].prompt, *unrelated(2)]
    load = Load(app, prompts, 10)
    wait_until(lambda: app.replicas() == 2)
    commit_wave(app.store, [new], 2)
    wait_until(lambda: app.ask(new.prompt).version == 3, 10)
    told = load.stop()
    assert [answer.error for answer in told if answer.error] == []
    expected = {(p, v): alone(app.store, p, v) for p in prompts for v in (2, 3)}
    assert {answer.version for answer in told} == {2, 3}
    assert [a for a in told if a.text != expected[a.prompt, a.version]] == []
    wait_until(lambda: app.replicas() == 1)
    assert app.ask(new.prompt).text == expected[new.prompt, 3]


def test_a_killed_replica_takes_only_its_own_requests_along(app: Deployed, head: Head) -> None:
    load = Load(app, unrelated(4), 10)
    wait_until(lambda: app.replicas() == 2)
    time.sleep(2)  # both have something to do
    victim = next(
        process
        for process in psutil.Process(head.pid).children(recursive=True)
        if "ServeReplica:edited" in " ".join(process.cmdline())
    )
    before = len(load.told)
    os.kill(victim.pid, signal.SIGKILL)
    wait_until(lambda: len(load.told) > before + 60)
    told = load.stop()
    failed = [answer for answer in told if answer.error]
    assert len(failed) <= 10  # one of each client
    assert all(isinstance(answer.error, openai.APIError) for answer in failed)
    expected = {prompt: alone(app.store, prompt) for prompt in unrelated(4)}
    assert [a for a in told if not a.error and a.text != expected[a.prompt]] == []
    wait_until(lambda: app.replicas() >= 1)
    assert app.ask("Who?").error is None
