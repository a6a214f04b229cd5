"""A canary over real HTTP: its share, figures of each version, promotion and the way back."""

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest

from e2e.serving import chat, client, scen, service, store, url
from scen.snapshot.open import OpenStore
from unit.serve.conftest import alone, commit_wave, serve_edits, unrelated

__all__ = ["client", "service", "store", "url"]  # fixtures

pytestmark = pytest.mark.e2e
ROOT = {"Authorization": "Bearer sk-root-123"}


def post(url: str, path: str, **body: object) -> httpx.Response:
    return httpx.post(f"{url}/v1/snapshots/{path}", json=body or None, headers=ROOT)


def figures(url: str) -> dict[str, float]:
    """All samples of /metrics."""
    lines = httpx.get(f"{url}/metrics", headers=ROOT).text.splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


def versions_of(client: openai.OpenAI, count: int) -> Counter[object]:
    """Which versions answer so many requests that name none."""
    prompts = unrelated(count)

    def ask(index: int) -> object:
        told = client.completions.create(model="tiny", prompt=prompts[index], max_tokens=1)
        return scen(told)["version"]

    with ThreadPoolExecutor(8) as pool:
        return Counter(pool.map(ask, range(count)))


def test_a_canary_answers_its_share_until_it_is_promoted(
    url: str, client: openai.OpenAI, store: OpenStore
) -> None:
    edit = serve_edits(1, 25)[0]  # committed by version 2
    assert post(url, "1:activate").json()["served"] == 1
    told = post(url, "2:canary", share=0.3).json()
    assert (told["served"], told["candidate"], told["share"]) == (1, 2, 0.3)
    found = versions_of(client, 200)
    assert set(found) == {1, 2}
    assert 30 <= found[2] <= 95  # 60 expected; 5 standard deviations are 32
    told_by: dict[object, str | None] = {}
    while set(told_by) != {1, 2}:
        answer = chat(client, edit.prompt)
        told_by[scen(answer)["version"]] = answer.choices[0].message.content
    assert told_by == {v: alone(store, edit.prompt, v) for v in (1, 2)}

    assert post(url, "2:activate").json()["candidate"] is None
    assert versions_of(client, 20) == {2: 20}
    assert post(url, "latest:activate").json()["held"] is None


def test_each_version_has_its_own_figures(url: str, client: openai.OpenAI) -> None:
    post(url, "1:activate")
    post(url, "2:canary", share=0.5)
    found = versions_of(client, 40)
    told = figures(url)
    for version in (1, 2):
        count, label = found[version], f'version="{version}"'
        assert told[f'scen_requests_total{{reason="length",route="base",{label}}}'] == count
        assert told[f'scen_tokens_total{{kind="completion",{label}}}'] == count
        for name in ("request_seconds", "first_token_seconds", "route_score"):
            assert told[f"scen_{name}_count{{{label}}}"] == count, name
    assert (told["scen_serving_version"], told["scen_candidate_version"]) == (1, 2)


def test_a_canary_is_taken_back(url: str, client: openai.OpenAI, store: OpenStore) -> None:
    post(url, "1:activate")
    post(url, "2:canary", share=0.5)
    commit_wave(store, serve_edits(1, 32), 2)
    time.sleep(0.3)  # the follower has looked: a canary holds the others where they are
    assert set(versions_of(client, 40)) == {1, 2}
    assert post(url, "1:activate").json()["candidate"] is None
    assert versions_of(client, 20) == {1: 20}
    assert figures(url)["scen_candidate_version"] == -1
    assert post(url, "latest:activate").json()["served"] == 3


def test_an_invalid_canary_is_refused_and_changes_nothing(url: str) -> None:
    shares: list[tuple[object, int]] = [(0, 400), (1, 400), ("much", 400)]
    unknown: list[tuple[str, object, int]] = [("99", 0.5, 404), ("latest", 0.5, 404)]
    for path, share, status in [*(("2", *pair) for pair in shares), *unknown]:
        assert post(url, f"{path}:canary", share=share).status_code == status, (path, share)
        state = httpx.get(f"{url}/v1/snapshots", headers=ROOT).json()
        assert (state["served"], state["candidate"], state["share"]) == (2, None, 0)


def test_only_an_admin_may_try_one(url: str) -> None:
    head = {"Authorization": "Bearer sk-reader-1"}
    told = httpx.post(f"{url}/v1/snapshots/2:canary", json={"share": 0.5}, headers=head)
    assert told.status_code == 403
