"""Settings: server arguments, engine limits, and options of vLLM. Cheap to import."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pydantic
import yaml

from scen.config import BaseConfig
from scen.errors import ConfigError
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


EngineName = Literal["own", "vllm"]


class VllmSettings(pydantic.BaseModel):
    """How vLLM runs the base; None leaves vLLM's default.

    `dtype` is the number type of the weights (None: that of the store), `quantization` how vLLM
    quantises them while loading, such as `fp8`. The base is split over `tensor_parallel_size`
    devices. Keys and values get `kv_cache_bytes` per device, else what is left of the share
    `gpu_memory_utilization` of the device's memory. A step runs at most `max_batched_tokens`
    tokens. `expert_slots` experts are held on the device. `enforce_eager` runs without
    torch.compile and CUDA graphs: slower, ready sooner.

    Workers on other machines exchange keys and experts with the server at `address`, such as
    `tcp://10.0.0.7:*`, which like Ray's own ports must be reachable only within the cluster.
    Replicas on Ray Serve set it themselves.

    `options` are further fields of vLLM's `AsyncEngineArgs`, and override those set here.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    quantization: str | None = None
    tensor_parallel_size: int = pydantic.Field(1, ge=1)
    gpu_memory_utilization: float | None = pydantic.Field(None, gt=0, le=1)
    kv_cache_bytes: int | None = pydantic.Field(None, ge=1)
    max_batched_tokens: int | None = pydantic.Field(None, ge=1)
    expert_slots: int = pydantic.Field(64, ge=1)
    enforce_eager: bool = False
    address: str | None = None
    options: dict[str, Any] = {}

    def engine_args(self, limits: EngineLimits) -> dict[str, Any]:
        """The fields of `AsyncEngineArgs` that are set here; the plugin adds those of the store."""
        fields = {
            "dtype": self.dtype,
            "quantization": self.quantization,
            "tensor_parallel_size": self.tensor_parallel_size,
            "gpu_memory_utilization": self.gpu_memory_utilization,
            "kv_cache_memory_bytes": self.kv_cache_bytes,
            "max_num_batched_tokens": self.max_batched_tokens,
            "enable_prefix_caching": limits.prefix_bytes > 0,
            "enforce_eager": self.enforce_eager,
        }
        return {name: v for name, v in fields.items() if v is not None} | self.options


def read_vllm(fields: Sequence[str]) -> VllmSettings:
    """Options of the form NAME=VALUE, values in YAML; names that are not fields go to `options`.
    Raises ConfigError."""
    known: dict[str, Any] = {}
    for field in fields:
        name, equals, text = field.partition("=")
        if not (name and equals):
            raise ConfigError(f"--vllm: {field!r} is not of the form enforce_eager=true")
        is_known = name in VllmSettings.model_fields
        (known if is_known else known.setdefault("options", {}))[name] = yaml.safe_load(text)
    try:
        return VllmSettings(**known)
    except pydantic.ValidationError as err:
        problem = err.errors()[0]
        name = ".".join(map(str, problem["loc"]))
        raise ConfigError(f"--vllm: {name}: {problem['msg']} (got {problem['input']!r})") from err


class ServerArgs(pydantic.BaseModel):
    """Arguments of a server.

    `store` is served on its own base unless `base` names another. Without `key_file`, only requests
    from this machine are accepted. Each replica generates at most `max_rows` answers at a time and
    queues `max_waiting` requests.

    `engine` is the embedded one (`own`) or `vllm`, which needs the extra of that name; `vllm` are
    its options.

    A replica checks for newer versions every `poll_s` seconds; an answer may take `timeout_s`. Keys
    and values of up to `prefix_bytes` are cached for prompts with a common prefix, such as a system
    prompt; 0 disables the cache. vLLM's has no size of its own: it uses the memory for keys and
    values that no answer needs.

    Each request and each swap is logged as a line on stderr in `log_format`, filtered by
    `log_level`. A `trace_share` of the requests (0 to 1) is traced in MLflow at `tracking_uri` (by
    default the environment's, else in the store), without their text unless `trace_text` is set.

    `allow_open` lets other machines use every route, including edits, without a `key_file`. Pages
    of `cors_origins` (`https://app.example`, or `*`) may call the API from a browser.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    store: str
    base: BaseConfig = pydantic.Field(default_factory=BaseConfig)
    engine: EngineName = "own"
    vllm: VllmSettings = pydantic.Field(default_factory=VllmSettings)
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
