"""API keys with scopes and rate limits, the addresses that require them, and the routes' context.

A key file is YAML: a list under `keys`, each with `name`, `scopes` (read, edit, admin), either
`key` or `sha256` (hex digest of the key), and optionally `requests_per_minute` and `streams`, which
restricts the key to submitting, seeing and revoking edits of these streams.
"""

import hmac
import ipaddress
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pydantic
import yaml
from fastapi import Request

from scen.errors import ConfigError
from scen.records import digest_bytes
from scen_serve.api.errors import ApiError
from scen_serve.metrics import Metrics
from scen_serve.service import Service
from scen_serve.telemetry import Traces

Scope = Literal["read", "edit", "admin"]
EVERYTHING: tuple[Scope, ...] = ("read", "edit", "admin")


class ApiKey(pydantic.BaseModel):
    """One API key. The scope `admin` includes the others."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    name: str = pydantic.Field(min_length=1)
    scopes: tuple[Scope, ...] = pydantic.Field(min_length=1)
    key: str | None = pydantic.Field(default=None, min_length=8)
    sha256: str | None = pydantic.Field(default=None, pattern="^[0-9a-f]{64}$")
    requests_per_minute: int | None = pydantic.Field(default=None, ge=1)
    streams: tuple[str, ...] | None = None

    @pydantic.model_validator(mode="after")
    def _has_one_secret(self) -> "ApiKey":
        if (self.key is None) == (self.sha256 is None):
            raise ValueError("give either key or sha256")
        return self

    @property
    def digest(self) -> str:
        """SHA-256 of the key, in hex."""
        return self.sha256 or digest_bytes((self.key or "").encode())

    def may(self, scope: Scope) -> bool:
        """True if the key has this scope."""
        return scope in self.scopes or "admin" in self.scopes

    def may_touch(self, stream: str) -> bool:
        """True if the key may access edits of this stream."""
        return self.streams is None or stream in self.streams


ANYONE = ApiKey(name="anyone", scopes=EVERYTHING, sha256="0" * 64)
"""The caller's key on a server without keys."""


class _KeyFile(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")

    keys: list[ApiKey] = pydantic.Field(min_length=1)


def read_key_file(path: str | None) -> list[ApiKey]:
    """The keys of a file; none if `path` is None. Raises ConfigError."""
    return [] if path is None else read_keys(path)


def read_keys(path: str) -> list[ApiKey]:
    """The keys of a file. Raises ConfigError; no message quotes a key."""
    try:
        parsed = _KeyFile.model_validate(yaml.safe_load(Path(path).read_text()))
    except OSError as err:
        raise ConfigError(f"api keys: cannot read {path} ({err.strerror})") from err
    except yaml.YAMLError as err:
        raise ConfigError(f"api keys: {path} is not YAML") from err
    except pydantic.ValidationError as err:
        first = err.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ConfigError(f"api keys: {path}: {where}: {first['msg']}") from err
    if len({key.digest for key in parsed.keys}) < len(parsed.keys):
        raise ConfigError(f"api keys: {path}: duplicate key")
    return parsed.keys


def check_address(host: str, keys: Sequence[ApiKey], allow_open: bool = False) -> None:
    """Raises ConfigError for an address that other machines can reach, without keys and without
    `allow_open`."""
    if not (keys or allow_open or is_loopback(host)):
        raise ConfigError(
            f"host: {host} can be reached from other machines; give a key file (--api-keys, or "
            "args.key_file for `serve deploy`), or listen on 127.0.0.1"
        )


def is_loopback(host: str) -> bool:
    """True if only this machine can reach the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class KeyRing:
    """Finds the key of a request and enforces its rate limit (token bucket)."""

    def __init__(self, keys: Sequence[ApiKey], clock: Callable[[], float] = time.monotonic) -> None:
        self._keys = list(keys)
        self._clock = clock
        self._left: dict[str, tuple[float, float]] = {}  # by digest: requests left, and when

    def find(self, secret: str | None) -> ApiKey | None:
        """The key with this secret, or None; `ANYONE` if no keys are configured."""
        if not self._keys:
            return ANYONE
        digest = digest_bytes((secret or "").encode())
        match = None
        for key in self._keys:  # no early exit: timing must reveal nothing
            if hmac.compare_digest(key.digest, digest):
                match = key
        return match

    def wait_s(self, key: ApiKey) -> float:
        """Count a request and return 0, or return the seconds until the next one is allowed."""
        if key.requests_per_minute is None:
            return 0.0
        full, now = float(key.requests_per_minute), self._clock()
        left, since = self._left.get(key.digest, (full, now))
        left = min(full, left + (now - since) * full / 60)
        if left < 1:
            return (1 - left) * 60 / full
        self._left[key.digest] = (left - 1, now)
        return 0.0


Guard = Callable[[Request], Awaitable[ApiKey]]


@dataclass(frozen=True)
class AppSettings:
    """Settings of the app. Clients name the model `model_name`; an answer may take `timeout_s`.
    With `allow_open`, an app without keys accepts any Host header. Pages of `cors_origins` may call
    the API from a browser (`*`: all)."""

    model_name: str
    timeout_s: float = 300.0
    max_body_bytes: int = 1 << 20
    default_tokens: int = 256
    allow_open: bool = False
    cors_origins: tuple[str, ...] = ()


@dataclass(frozen=True)
class AppContext:
    """What routes share: the service, its keys and settings, metrics and traces."""

    service: Service
    keys: KeyRing
    settings: AppSettings
    metrics: Metrics
    traces: Traces | None = None

    def guard(self, scope: Scope | None) -> Guard:
        """A route dependency that returns the caller's key; `scope` None accepts any valid key.
        Raises ApiError 401, 403 or 429."""

        async def check(request: Request) -> ApiKey:
            scheme, _, secret = request.headers.get("authorization", "").partition(" ")
            key = self.keys.find(secret.strip() if scheme.lower() == "bearer" else None)
            if key is None:
                raise ApiError(401, "the API key is missing or wrong: Authorization: Bearer KEY")
            request.state.record.key = key.name
            if scope is not None and not key.may(scope):
                raise ApiError(403, f"the API key {key.name} has no scope {scope}")
            wait_s = self.keys.wait_s(key)
            if wait_s:
                raise ApiError(429, f"the API key {key.name} has reached its rate limit", wait_s)
            return key

        return check
