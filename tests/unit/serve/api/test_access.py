"""Keys: what they may do, how often, and that no message tells one."""

from pathlib import Path

import pytest

from scen.errors import ConfigError
from scen.records import digest_bytes
from scen_serve.api.access import ApiKey, KeyRing, check_address, read_keys

SECRET = "sk-a-secret"


def write(folder: Path, text: str) -> str:
    path = folder / "keys.yaml"
    path.write_text(text)
    return str(path)


def test_a_file_of_keys(tmp_path: Path) -> None:
    digest = digest_bytes(b"sk-other-one")
    path = write(
        tmp_path,
        f"keys:\n- {{name: a, key: {SECRET}, scopes: [read], requests_per_minute: 3}}\n"
        f"- {{name: b, sha256: {digest}, scopes: [edit, read]}}\n",
    )
    ring = KeyRing(read_keys(path))
    found = ring.find(SECRET)
    assert found is not None
    assert (found.name, found.may("read"), found.may("edit")) == ("a", True, False)
    other = ring.find("sk-other-one")
    assert other is not None
    assert (other.may("edit"), other.may("admin")) == (True, False)
    assert ring.find("sk-a-secre") is None
    assert ring.find(None) is None
    assert ring.find(digest) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("keys: []", "keys"),
        (f"keys: [{{name: a, key: {SECRET}}}]", "scopes"),
        (f"keys: [{{name: a, key: {SECRET}, scopes: [write]}}]", "scopes"),
        ("keys: [{name: a, scopes: [read]}]", "either key or sha256"),
        (f"keys: [{{name: a, key: {SECRET}, scopes: [read], rate: 1}}]", "rate"),
        (f"keys: {[{'name': n, 'key': SECRET, 'scopes': ['read']} for n in 'ab']}", "duplicate"),
        ("keys: [", "is not YAML"),
        (SECRET, "keys.yaml"),
    ],
)
def test_a_file_that_is_wrong(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match="api keys: ") as caught:
        read_keys(write(tmp_path, text))
    assert words in str(caught.value)
    assert SECRET not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        read_keys(str(tmp_path / "no.yaml"))


def test_the_rate_of_a_key() -> None:
    now = [0.0]
    key = ApiKey(name="a", scopes=("read",), key=SECRET, requests_per_minute=2)
    ring = KeyRing([key], clock=lambda: now[0])
    assert [ring.wait_s(key) for _ in range(3)] == [0, 0, 30]
    now[0] = 20
    assert ring.wait_s(key) == pytest.approx(10)
    now[0] = 30
    assert ring.wait_s(key) == 0
    now[0] = 1000  # what was not used is not saved up
    assert [ring.wait_s(key) > 0 for _ in range(3)] == [False, False, True]


def test_without_keys_only_this_machine_may_ask() -> None:
    anyone = KeyRing([]).find(None)
    assert anyone is not None
    assert anyone.may("admin")
    for host in ("127.0.0.1", "::1", "localhost", "127.8.8.8"):
        check_address(host, [])
    for host in ("0.0.0.0", "::", "10.0.0.1", "example.org"):
        with pytest.raises(ConfigError, match="--api-keys"):
            check_address(host, [])
        check_address(host, [ApiKey(name="a", scopes=("read",), key=SECRET)])
