"""The arguments of a server, in plain values: from `scen serve` or a file for `serve deploy`."""

import pydantic

from scen.config import BaseConfig


class ServerArgs(pydantic.BaseModel):
    """`store` is served on its own base where `base` names none. Without `key_file` only this
    machine may ask. `max_rows` answers are given at a time by a replica, and `max_waiting` wait.

    A replica looks for newer versions each `poll_s` seconds; an answer may take `timeout_s`.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    store: str
    base: BaseConfig = pydantic.Field(default_factory=BaseConfig)
    key_file: str | None = None
    model_name: str | None = None
    max_rows: int = pydantic.Field(32, ge=1)
    max_waiting: int = pydantic.Field(256, ge=1)
    max_context: int = pydantic.Field(4096, ge=1)
    timeout_s: float = pydantic.Field(300.0, gt=0)
    poll_s: float = pydantic.Field(0.5, gt=0)
