"""What the routes of an app share."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from fastapi import Request

from scen_serve.access import ApiKey, KeyRing, Scope
from scen_serve.metrics import Metrics
from scen_serve.problems import ApiError
from scen_serve.service import Service
from scen_serve.traces import Traces

Guard = Callable[[Request], Awaitable[ApiKey]]


@dataclass(frozen=True)
class AppSettings:
    """`model_name` is what clients call the model. An answer may take `timeout_s`. With
    `allow_open` an app without keys answers whatever name it is asked by."""

    model_name: str
    timeout_s: float = 300.0
    max_body_bytes: int = 1 << 20
    default_tokens: int = 256
    allow_open: bool = False


@dataclass(frozen=True)
class AppContext:
    """The service, who may use it, and how it is told."""

    service: Service
    keys: KeyRing
    settings: AppSettings
    metrics: Metrics
    traces: Traces | None = None

    def guard(self, scope: Scope | None) -> Guard:
        """A dependency of routes: the caller's key, whatever its scopes where `scope` is None.
        Raises ApiError 401, 403 or 429."""

        async def check(request: Request) -> ApiKey:
            word, _, secret = request.headers.get("authorization", "").partition(" ")
            key = self.keys.find(secret.strip() if word.lower() == "bearer" else None)
            if key is None:
                raise ApiError(401, "the API key is missing or wrong: Authorization: Bearer KEY")
            request.state.record.key = key.name
            if scope is not None and not key.may(scope):
                raise ApiError(403, f"the API key {key.name} has no scope {scope}")
            wait_s = self.keys.wait_s(key)
            if wait_s:
                raise ApiError(429, f"the API key {key.name} asks too often", wait_s)
            return key

        return check
