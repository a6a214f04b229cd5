"""The bodies of requests, as OpenAI's clients send them: each field is supported, refused or
ignored.
"""

import json
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictInt,
    field_validator,
    model_validator,
)

from scen.records import EncodedPrompt
from scen_serve.api.errors import ApiError
from scen_serve.engine.request import Constraint, Sampling, ScoredText

Version = int | Literal["pin"]
MAX_CHOICES = 8
MAX_PROMPTS = 64
_MAX_NAMED = 32  # field names in one header

# Unsupported fields that would change the answer or the response. Values without effect are
# accepted: None, false, 0, empty ones, and those listed here.
_REFUSED: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("tools", "functions", "function_call", "audio", "prediction", "suffix"), ()),
    **dict.fromkeys(("web_search_options", "documents", "chat_template", "prompt_embeds"), ()),
    **dict.fromkeys(("chat_template_kwargs", "continue_final_message", "prompt_logprobs"), ()),
    **dict.fromkeys(("grammar", "json_schema", "logits_processors"), ()),
    **dict.fromkeys(("bad_words", "allowed_token_ids", "use_beam_search"), ()),
    **dict.fromkeys(("include_stop_str_in_output", "truncate_prompt_tokens"), ()),
    **dict.fromkeys(("typical_p", "tfs_z", "top_a", "eta_cutoff", "epsilon_cutoff"), (1,)),
    **dict.fromkeys(("mirostat", "xtc_probability", "dry_multiplier", "no_repeat_ngram_size"), ()),
    **dict.fromkeys(("previous_response_id", "conversation", "background", "include"), ()),
    "add_generation_prompt": (True,),
    "best_of": (1,),
    "length_penalty": (1,),
    "modalities": (["text"],),
    "num_beams": (1,),
    "response_format": ({"type": "text"},),
    "skip_special_tokens": (True,),
    "tool_choice": ("none", "auto"),
    "truncation": ("disabled",),
}
_NEVER_EMPTY = ("add_generation_prompt", "skip_special_tokens")  # here false has an effect


def unsupported(name: str) -> ApiError:
    """The error for a request that uses this field."""
    text = f"{name}: is not supported; leave it out"
    return ApiError(400, text, param=name, code="unsupported_parameter")


def refuse_unsupported(body: Any, own: Mapping[str, Any]) -> None:
    """Raises ApiError 400 for the first unsupported field of a body that would change the answer;
    `own` are the fields of the body's model."""
    for name, value in body.items() if isinstance(body, dict) else ():
        if name in own or value is None:
            continue
        is_guided = name.startswith("guided_")
        if not (is_guided or name in _REFUSED):
            continue
        is_empty = not value and name not in _NEVER_EMPTY
        if not is_empty and value not in _REFUSED.get(name, ()):
            raise unsupported(name[:64])


class ScenOptions(BaseModel):
    """Options for versions and routing. `version` is a number, or `pin`: use the served version and
    keep it loaded for later requests by number. With `route` `off` the base answers."""

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
    """Whether the last chunk of a stream has the token counts."""

    include_usage: bool = False


class OutputFormat(BaseModel):
    """The form of the answer, as `text.format` of the Responses API: text, a JSON object, or JSON
    of a schema."""

    model_config = ConfigDict(extra="ignore", serialize_by_alias=True)

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")

    @model_validator(mode="after")
    def _has_its_schema(self) -> "OutputFormat":
        if self.type == "json_schema" and self.schema_ is None:
            raise ValueError("json_schema needs a schema, a JSON object")
        return self

    @property
    def constraint(self) -> Constraint | None:
        """None for text."""
        if self.type == "text":
            return None
        # The order of a schema's properties is that of the answer.
        schema = self.schema_ if self.type == "json_schema" else {"type": "object"}
        return Constraint("json_schema", json.dumps(schema))


def chat_format(value: Any) -> Any:
    """`response_format`, in the form of `text.format`: there the schema is not nested."""
    if isinstance(value, dict) and isinstance(value.get("json_schema"), dict):
        return value["json_schema"] | {"type": value.get("type")}
    return value


ChatFormat = Annotated[OutputFormat, BeforeValidator(chat_format)]


class StructuredOutputs(BaseModel):
    """vLLM's `structured_outputs`: one of `json` (a schema), `json_object`, `regex`, `choice`."""

    model_config = ConfigDict(extra="forbid")

    json_: dict[str, Any] | str | None = Field(default=None, alias="json")
    json_object: bool | None = None
    regex: str | None = None
    choice: list[str] | None = Field(default=None, min_length=1, max_length=1000)

    @model_validator(mode="after")
    def _is_one(self) -> "StructuredOutputs":
        if sum(value not in (None, False) for _, value in self) != 1:
            raise ValueError("exactly one of json, json_object, regex, choice")
        return self

    @property
    def constraint(self) -> Constraint:
        """The one that is set."""
        if self.regex is not None:
            return Constraint("regex", self.regex)
        if self.choice is not None:
            return Constraint("choice", json.dumps(self.choice))
        schema = {"type": "object"} if self.json_ is None else self.json_
        return Constraint("json_schema", schema if isinstance(schema, str) else json.dumps(schema))


class AskBody(BaseModel):
    """Fields common to all generation requests. Answers are greedy without a temperature."""

    model_config = ConfigDict(extra="allow")

    model: str
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=-1, lt=1 << 31)
    min_p: float | None = Field(default=None, ge=0, le=1)
    repetition_penalty: float | None = Field(default=None, gt=0, le=10)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    min_tokens: int | None = Field(default=None, ge=0)
    stop_token_ids: list[int] | None = Field(default=None, max_length=256)
    ignore_eos: bool | None = None
    logit_bias: dict[int, float] | None = Field(default=None, max_length=1024)
    seed: int | None = Field(default=None, ge=-(1 << 63), lt=1 << 63)
    stop: str | list[str] | None = None
    stream: bool | None = None
    structured_outputs: StructuredOutputs | None = None
    scen: ScenOptions = Field(default_factory=ScenOptions)

    @model_validator(mode="before")
    @classmethod
    def _refuse(cls, body: Any) -> Any:
        refuse_unsupported(body, cls.model_fields)
        if not isinstance(body, dict):
            return body
        return {name: value for name, value in body.items() if value is not None}

    @field_validator("stop")
    @classmethod
    def _stops(cls, value: str | list[str] | None) -> str | list[str] | None:
        texts = [value] if isinstance(value, str) else value or []
        if len(texts) > 16 or any(not 0 < len(text) <= 256 for text in texts):
            raise ValueError("at most 16 strings of 1 to 256 characters")
        return value

    @field_validator("logit_bias")
    @classmethod
    def _biases(cls, value: dict[int, float] | None) -> dict[int, float] | None:
        if any(not -100 <= bias <= 100 for bias in (value or {}).values()):
            raise ValueError("a bias is a number from -100 to 100")
        return value

    @property
    def num_choices(self) -> int:
        """Number of answers to each prompt."""
        return 1

    @property
    def wanted_tokens(self) -> int | None:
        """The maximum length of an answer, if given."""
        return None

    @property
    def wanted_logprobs(self) -> int | None:
        """Alternatives per token; None if no log-probabilities are requested."""
        return None

    @property
    def format(self) -> tuple[str, OutputFormat | None]:
        """The form of the answer, and the name of its field."""
        return "response_format", None

    @property
    def constraint(self) -> tuple[str, Constraint | None]:
        """What the answer must match, and the name of its field."""
        field, form = self.format
        constraint = None if form is None else form.constraint
        if self.structured_outputs is None:
            return field, constraint
        if constraint is not None:
            raise ApiError(400, f"structured_outputs: {field} is given too", param=field)
        return "structured_outputs", self.structured_outputs.constraint

    @property
    def ignored(self) -> str:
        """The value of X-Scen-Ignored-Fields: names of the fields that have no effect."""
        others = [name for name in self.model_extra or {} if name not in (*_REFUSED, "echo")]
        return ", ".join(urllib.parse.quote(name[:64], safe="") for name in others[:_MAX_NAMED])

    def sampling(self, max_tokens: int, choice: int) -> Sampling:
        """The sampling of one choice; each choice derives a seed of its own."""
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        return Sampling(
            max_tokens=max_tokens,
            temperature=self.temperature or 0.0,
            top_p=1.0 if self.top_p is None else self.top_p,
            seed=None if self.seed is None else (self.seed + choice) % (1 << 63),
            stop=stop,
            top_logprobs=self.wanted_logprobs,
            top_k=max(0, self.top_k or 0),
            min_p=self.min_p or 0.0,
            repetition_penalty=self.repetition_penalty or 1.0,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            min_tokens=self.min_tokens or 0,
            stop_token_ids=tuple(self.stop_token_ids or ()),
            ignore_eos=bool(self.ignore_eos),
            logit_bias=tuple((self.logit_bias or {}).items()),
        )


class CompletionBody(AskBody):
    """/v1/completions: raw text or token ids, which the model continues."""

    prompt: str | list[str] | list[StrictInt] | list[list[StrictInt]]
    max_tokens: int | None = Field(default=None, ge=0)
    n: int | None = Field(default=None, ge=1, le=MAX_CHOICES)
    logprobs: int | None = Field(default=None, ge=0, le=5)
    echo: bool | None = None
    add_special_tokens: bool = True
    stream_options: StreamOptions | None = None
    response_format: ChatFormat | None = None

    @field_validator("prompt")
    @classmethod
    def _some_prompts(cls, value: Any) -> Any:
        is_many = isinstance(value, list) and not (value and isinstance(value[0], int))
        if is_many and not 1 <= len(value) <= MAX_PROMPTS:
            raise ValueError(f"1 to {MAX_PROMPTS} prompts")
        return value

    @property
    def prompts(self) -> list[str | list[int]]:
        """Each prompt, as text or as token ids."""
        prompt: Any = self.prompt
        is_single = isinstance(prompt, str) or not prompt or isinstance(prompt[0], int)
        return [prompt] if is_single else list(prompt)

    @property
    def num_choices(self) -> int:
        return self.n or 1

    @property
    def wanted_tokens(self) -> int | None:
        return self.max_tokens

    @property
    def format(self) -> tuple[str, OutputFormat | None]:
        return "response_format", self.response_format

    @property
    def wanted_logprobs(self) -> int | None:
        return self.logprobs


class TextPart(BaseModel):
    """A part of a message; only text is supported."""

    type: Literal["text", "input_text", "output_text"]
    text: str


class Message(BaseModel):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]

    def plain(self) -> dict[str, str]:
        """The message in the form used by chat templates."""
        parts = self.content
        text = parts if isinstance(parts, str) else "".join(part.text for part in parts)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


def require_question(messages: list[Message]) -> list[Message]:
    """The messages. Raises ValueError unless the last one is the user's and has text."""
    if messages[-1].role != "user":
        raise ValueError("the last message must be the user's")
    if not messages[-1].plain()["content"].strip():
        raise ValueError("the last message has no text")
    return messages


class ChatBody(AskBody):
    """/v1/chat/completions."""

    messages: list[Message] = Field(min_length=1, max_length=256)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    n: int | None = Field(default=None, ge=1, le=MAX_CHOICES)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    stream_options: StreamOptions | None = None
    response_format: ChatFormat | None = None

    _ends_with_the_user = field_validator("messages")(require_question)

    @model_validator(mode="after")
    def _has_logprobs(self) -> "ChatBody":
        if self.top_logprobs and not self.logprobs:
            raise ApiError(400, "top_logprobs: needs logprobs: true", param="top_logprobs")
        return self

    @model_validator(mode="before")
    @classmethod
    def _refuse_echo(cls, body: Any) -> Any:
        if isinstance(body, dict) and body.get("echo"):
            raise unsupported("echo")
        return body

    @property
    def num_choices(self) -> int:
        return self.n or 1

    @property
    def wanted_tokens(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def format(self) -> tuple[str, OutputFormat | None]:
        return "response_format", self.response_format

    @property
    def wanted_logprobs(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None


@dataclass(frozen=True)
class Prompt:
    """A prompt as tokens, and `question`, the form of it that is routed if not the prompt itself.
    Raw prompts have `text` and `offsets` (characters before each token), and `answer_at` (character
    offset) if they are in the base's template."""

    encoded: EncodedPrompt
    question: EncodedPrompt | None = None
    text: str = ""
    offsets: tuple[int, ...] = ()
    answer_at: int | None = None
    is_routable: bool = True

    @property
    def scored(self) -> ScoredText:
        """The prompt, for log-probabilities of its own tokens."""
        return ScoredText(self.text, self.offsets, self.answer_at)
