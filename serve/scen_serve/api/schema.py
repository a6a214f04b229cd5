"""The bodies of requests, as OpenAI's clients send them, with what this server does not do."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from scen_serve.engine.request import Sampling

Version = int | Literal["pin"]
MAX_CHOICES = 8

_REFUSED = ("tools", "functions", "logit_bias", "suffix", "audio", "prediction")
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "best_of": (1,),
    "echo": (False,),
    "response_format": ({"type": "text"},),
}


class ScenOptions(BaseModel):
    """What is asked of the edits. `version` is a number, or `pin`: the version of now is kept
    ready, to be asked for by its number later. `route` `off` lets the base answer."""

    model_config = ConfigDict(extra="forbid")

    version: Version | None = Field(default=None, union_mode="left_to_right")
    route: Literal["auto", "off"] = "auto"

    @field_validator("version")
    @classmethod
    def _is_a_version(cls, value: Version | None) -> Version | None:
        if isinstance(value, int) and not 0 <= value < 1 << 63:
            raise ValueError("versions count from 0")
        return value


class StreamOptions(BaseModel):
    """Whether the last chunk of a stream counts the tokens."""

    include_usage: bool = False


class AskBody(BaseModel):
    """What both kinds of requests have. Answers are greedy where no temperature is given."""

    model_config = ConfigDict(extra="allow")

    model: str
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    n: int | None = Field(default=None, ge=1, le=MAX_CHOICES)
    seed: int | None = Field(default=None, ge=-(1 << 63), lt=1 << 63)
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    scen: ScenOptions = Field(default_factory=ScenOptions)

    @model_validator(mode="before")
    @classmethod
    def _refuse(cls, body: Any) -> Any:
        """What would change the answer and is not done here must not be passed over."""
        for name, value in body.items() if isinstance(body, dict) else ():
            is_refused = name in _REFUSED and value
            is_other = name in _NEUTRAL and value is not None and value not in _NEUTRAL[name]
            if is_refused or is_other:
                raise ValueError(f"{name} is not supported by this server")
        return body

    @field_validator("stop")
    @classmethod
    def _stops(cls, value: str | list[str] | None) -> str | list[str] | None:
        texts = [value] if isinstance(value, str) else value or []
        if len(texts) > 16 or any(not 0 < len(text) <= 256 for text in texts):
            raise ValueError("at most 16 strings of 1 to 256 characters")
        return value

    @property
    def wanted_tokens(self) -> int | None:
        """How long the answer may be, where that is said."""
        return self.max_tokens

    @property
    def wanted_logprobs(self) -> int | None:
        """Alternatives per token; None where no probabilities are wanted."""
        return None

    def sampling(self, max_tokens: int, choice: int) -> Sampling:
        """Of the choice with this number: choices of one seed differ."""
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        return Sampling(
            max_tokens=max_tokens,
            temperature=self.temperature or 0.0,
            top_p=1.0 if self.top_p is None else self.top_p,
            seed=None if self.seed is None else (self.seed + choice) % (1 << 63),
            stop=stop,
            top_logprobs=self.wanted_logprobs,
        )


class CompletionBody(AskBody):
    """/v1/completions."""

    prompt: str | list[str]
    logprobs: int | None = Field(default=None, ge=0, le=5)

    @field_validator("prompt")
    @classmethod
    def _some_prompts(cls, value: str | list[str]) -> str | list[str]:
        if isinstance(value, list) and not 1 <= len(value) <= MAX_CHOICES:
            raise ValueError(f"1 to {MAX_CHOICES} prompts")
        return value

    @property
    def wanted_logprobs(self) -> int | None:
        return self.logprobs


class TextPart(BaseModel):
    """A part of a message; only text is understood."""

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]

    def plain(self) -> dict[str, str]:
        """As chat templates know it."""
        parts = self.content
        text = parts if isinstance(parts, str) else "".join(part.text for part in parts)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class ChatBody(AskBody):
    """/v1/chat/completions."""

    messages: list[Message] = Field(min_length=1, max_length=256)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)

    @field_validator("messages")
    @classmethod
    def _ends_with_the_user(cls, value: list[Message]) -> list[Message]:
        if value[-1].role != "user":
            raise ValueError("the last message must be the user's")
        return value

    @property
    def wanted_tokens(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def wanted_logprobs(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None


class CanaryBody(BaseModel):
    """Which share of the requests that name no version a candidate answers."""

    model_config = ConfigDict(extra="forbid")

    share: float = Field(gt=0, lt=1)
