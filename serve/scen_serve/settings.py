"""Settings: the arguments of a server, and the limits of an engine. Light to import."""

from dataclasses import dataclass

import pydantic

from scen.config import BaseConfig
from scen_serve.telemetry import LogFormat, LogLevel


@dataclass(frozen=True)
class EngineLimits:
    """`max_rows` answers are given at a time, `max_waiting` wait. A prompt and its answer have at
    most `max_context` tokens (the base's own limit, where that is less).

    One prefill takes at most `prefill_tokens` tokens with padding, or a single prompt.
    `expert_slots` experts lie on the device, bundles of `host_bytes` in memory. Keys and values of
    `prefix_bytes` are kept on the device for prompts that begin alike; 0 keeps none, nor does
    method `scen`, whose experts act on the whole prompt.
    """

    max_rows: int = 32
    max_waiting: int = 256
    max_context: int = 4096
    prefill_tokens: int = 1024
    expert_slots: int = 64
    host_bytes: int = 4 << 30
    prefix_bytes: int = 256 << 20


class ServerArgs(pydantic.BaseModel):
    """`store` is served on its own base where `base` names none. Without `key_file` only this
    machine may ask. `max_rows` answers are given at a time by a replica, and `max_waiting` wait.

    A replica looks for newer versions each `poll_s` seconds; an answer may take `timeout_s`. It
    keeps keys and values of `prefix_bytes` for prompts that begin alike, such as with one system
    prompt; 0 turns that off.

    Each request and each swap is a line on stderr, in this `log_format`, from `log_level` on. A
    `trace_share` of the requests (0 to 1) are traces in MLflow at `tracking_uri` (by default where
    the environment says, else in the store), without their text unless `trace_text`.

    `allow_open` lets others ask though there is no `key_file`: everything, edits too.
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
