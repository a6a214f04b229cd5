"""Settings: server arguments and engine limits. Cheap to import."""

from dataclasses import dataclass

import pydantic

from scen.config import BaseConfig
from scen_serve.telemetry import LogFormat, LogLevel


@dataclass(frozen=True)
class EngineLimits:
    """Limits of one engine.

    At most `max_rows` answers are generated at a time, and `max_waiting` requests are queued. A
    prompt and its answer have at most `max_context` tokens, or the base's own limit if lower.

    A prefill takes at most `prefill_tokens` tokens including padding, or a single prompt.
    `expert_slots` experts are held on the device, and bundles of up to `host_bytes` in memory. The
    prefix cache on the device has `prefix_bytes`; 0 disables it, and so does method `scen`, whose
    experts act on the whole prompt.
    """

    max_rows: int = 32
    max_waiting: int = 256
    max_context: int = 4096
    prefill_tokens: int = 1024
    expert_slots: int = 64
    host_bytes: int = 4 << 30
    prefix_bytes: int = 256 << 20


class ServerArgs(pydantic.BaseModel):
    """Arguments of a server.

    `store` is served on its own base unless `base` names another. Without `key_file`, only requests
    from this machine are accepted. Each replica generates at most `max_rows` answers at a time and
    queues `max_waiting` requests.

    A replica checks for newer versions every `poll_s` seconds; an answer may take `timeout_s`. Keys
    and values of up to `prefix_bytes` are cached for prompts with a common prefix, such as a system
    prompt; 0 disables the cache.

    Each request and each swap is logged as a line on stderr in `log_format`, filtered by
    `log_level`. A `trace_share` of the requests (0 to 1) is traced in MLflow at `tracking_uri` (by
    default the environment's, else in the store), without their text unless `trace_text` is set.

    `allow_open` lets other machines use every route, including edits, without a `key_file`. Pages
    of `cors_origins` (`https://app.example`, or `*`) may call the API from a browser.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    store: str
    base: BaseConfig = pydantic.Field(default_factory=BaseConfig)
    key_file: str | None = None
    model_name: str | None = None
    max_rows: int = pydantic.Field(32, ge=1)
    max_waiting: int = pydantic.Field(256, ge=1)
    max_context: int = pydantic.Field(4096, ge=1)
    prefix_bytes: int = pydantic.Field(256 << 20, ge=0)
    timeout_s: float = pydantic.Field(300.0, gt=0)
    poll_s: float = pydantic.Field(0.5, gt=0)
    log_format: LogFormat = "json"
    log_level: LogLevel = "info"
    trace_share: float = pydantic.Field(0.0, ge=0, le=1)
    tracking_uri: str | None = None
    trace_text: bool = False
    allow_open: bool = False
    cors_origins: tuple[str, ...] = ()
