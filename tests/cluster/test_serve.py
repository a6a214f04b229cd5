"""The server on a real Ray: replicas come and go, versions are swapped, and nobody notices."""

import json
import os
import re
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import httpx
import openai
import psutil
import pytest

from cluster.ray_head import Head
from cluster.serve_app import Deployed, Load, app, wait_until
from scen.cluster.registry import RegistryClient
from scen_serve.ray_app import proxy_host
from unit.serve.conftest import NEW, alone, commit_wave, prepare_wave, serve_edits, unrelated

__all__ = ["app"]  # a fixture

pytestmark = [pytest.mark.cluster, pytest.mark.filterwarnings("ignore::ResourceWarning")]


def test_replicas_answer_as_one_engine_does(app: Deployed) -> None:
    prompts = [serve_edits(1, 5)[0].prompt, unrelated(1)[0]]
    for prompt in prompts:
        told = app.ask(prompt)
        assert (told.error, told.version) == (None, 2)
        assert told.text == alone(app.store, prompt)
    raw = app.store.base.template.render(prompts[0])
    chunks = app.client.completions.create(model="tiny", prompt=raw, max_tokens=NEW, stream=True)
    assert "".join(c.choices[0].text for c in chunks) == alone(app.store, prompts[0])


def test_ray_exports_what_replicas_did(app: Deployed, head: Head) -> None:
    app.ask(serve_edits(1, 5)[0].prompt)

    def exported() -> str:
        text = httpx.get(head.metrics).text
        return "\n".join(line for line in text.splitlines() if line.startswith("ray_scen_"))

    wait_until(lambda: "ray_scen_tokens_total" in exported(), 60)
    found = exported()
    assert 'route="edit"' in found
    assert "ray_scen_request_seconds_bucket_total" in found
    told = [line for line in found.splitlines() if line.startswith("ray_scen_tokens_total")]
    assert all('version="2"' in line for line in told)
    version = next(x for x in found.splitlines() if x.startswith("ray_scen_serving_version"))
    assert float(version.rsplit(" ", 1)[1]) == 2


def test_the_workbench_works_behind_the_proxy(app: Deployed) -> None:
    home = str(app.client.base_url).removesuffix("/v1/")
    with httpx.Client(base_url=home) as client:
        page = client.get("/")
        assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
        files = re.findall(r'(?:src|href)="([^":]+\.(?:js|css))"', page.text)
        assert files
        assert {client.get(urljoin("/", name)).status_code for name in files} == {200}
        assert client.get("/v1/whoami").json()["scopes"] == ["read", "edit", "admin"]
        edit = serve_edits(1, 5)[0]
        body = {"messages": [{"role": "user", "content": edit.prompt}], "count": 1}
        told = client.post("/v1/explain", json=body).json()
        assert (told["version"], told["edit_id"]) == (2, edit.id)
        assert [near["answers"] for near in told["nearest"]] == [True]
        listed = client.get("/v1/edits").json()["data"]
        assert edit.id in [one["id"] for one in listed]


def log_lines(event: str) -> list[dict[str, Any]]:
    """What replicas wrote to their logs."""
    home = Path(os.environ["RAY_AUTH_TOKEN_PATH"]).parent
    files = home.glob("*/r/session_latest/logs/worker-*.err")
    lines = [line for file in files for line in file.read_text().splitlines()]
    told = [json.loads(line) for line in lines if line.startswith('{"time"')]
    return [line for line in told if line["event"] == event]


def test_replicas_log_their_requests(app: Deployed) -> None:
    edit = serve_edits(1, 7)[0]
    prompt = app.store.base.template.render(edit.prompt)
    raw = app.client.completions.with_raw_response.create(
        model="tiny", prompt=prompt, max_tokens=NEW
    )
    name = raw.headers["x-request-id"]
    assert len(name.split(",")) == 1
    wait_until(lambda: [line for line in log_lines("request") if line["request_id"] == name], 20)
    [line] = [line for line in log_lines("request") if line["request_id"] == name]
    assert (line["key"], line["route"], line["edit_id"]) == ("anyone", "edit", edit.id)
    assert (line["version"], line["status"], line["new_tokens"]) == (2, 200, NEW)
    assert edit.prompt not in json.dumps(line)
    assert log_lines("swap")[0]["version"] == 2
    assert log_lines("start")[0]["store"] == app.store.storage.uri


def test_a_full_queue_is_an_error_of_the_api(app: Deployed) -> None:
    """Serve refuses by itself; its proxy says so as the server would."""
    one = {"max_ongoing_requests": 1, "max_queued_requests": 1}
    alone_ = {"min_replicas": 1, "max_replicas": 1}
    app.deploy(one | {"autoscaling_config": alone_}, version="latest")
    with ThreadPoolExecutor(16) as pool:
        told = list(pool.map(app.ask, unrelated(16)))
    app.deploy(version="latest")
    refused = [answer.error for answer in told if answer.error is not None]
    assert 0 < len(refused) < 16
    for error in refused:
        assert isinstance(error, openai.RateLimitError)
        assert error.type == "rate_limit_error"
        assert error.response.headers["retry-after"] == "1"
        assert "too many requests wait" in error.message
        assert "x-request-id" in error.response.headers


def test_it_is_known_where_serve_listens(app: Deployed) -> None:
    assert proxy_host() == app.client.base_url.host == "127.0.0.1"


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


def follows(app: Deployed) -> str:
    """What tells the replica of new versions."""
    found = httpx.get(str(app.client.base_url).replace("/v1/", "/v1/snapshots")).json()["follows"]
    return str(found)


def test_replicas_learn_of_versions_from_the_registry_or_by_polling(
    app: Deployed,
) -> None:
    wait_until(lambda: follows(app) == "registry" and not app.ask("Who?").error, 60)
    registry = RegistryClient(app.store.storage.uri)
    newest = app.store.ledger.version()
    registry.call("commit", prepare_wave(app.store, serve_edits(1, 50), 7), newest)
    began = time.monotonic()
    wait_until(lambda: app.ask("Who?").version == newest + 1, 10)
    sys.stdout.write(f"served {time.monotonic() - began:.2f} s after the commit\n")

    os.kill(registry.call("info")["pid"], signal.SIGSTOP)  # it hangs
    wait_until(lambda: follows(app) == "ledger", 30)
    commit_wave(app.store, serve_edits(1, 60), 8)
    wait_until(lambda: app.ask("Who?").version == newest + 2, 10)
