"""Prompt templates: render prompts for the base and locate the user's own words in them."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

from jinja2.exceptions import TemplateError

from scen.errors import BaseError, ConfigError
from scen.model.surface import cut_spans, routed_form
from scen.model.user_text import UserText, unescape
from scen.records import Edit, EncodedEdit, EncodedPrompt

TemplateName = Literal["auto", "chat", "llama2-inst", "raw"]
_MARK = "\ue000"  # a private-use character, which no template contains
_INST = ("[INST]", "[/INST]")
# Llama-3 templates state the current date; it is fixed so that answers do not depend on the day.
_DATE = "26 Jul 2024"
_OPEN_THINK, _END_THINK = re.compile(r"<think>\s*$"), "</think>"


class Template:
    """Renders prompts and targets as token ids.

    `chat` is the tokenizer's own chat template, `llama2-inst` is `[INST]Q[/INST]`
    (arXiv 2404.02699), `raw` is the unchanged prompt, with a space before the target.
    `auto` is `chat` where the tokenizer has a chat template, else `raw`.
    """

    def __init__(self, name: TemplateName, tokenizer: Any) -> None:
        if name not in get_args(TemplateName):
            raise ConfigError(
                f"template: {name!r} is not one of {', '.join(get_args(TemplateName))}"
            )
        has_chat = bool(getattr(tokenizer, "chat_template", None))
        if name == "chat" and not has_chat:
            raise BaseError("template: this tokenizer has no chat template; use llama2-inst or raw")
        if tokenizer.eos_token_id is None:
            raise BaseError("base: the tokenizer has no end token, so answers would never stop")
        self.name: str = name if name != "auto" else ("chat" if has_chat else "raw")
        self.tokenizer = tokenizer
        self._user_text = UserText(tokenizer)
        self.end_id: int = tokenizer.eos_token_id
        # The text around a prompt; the words of a prompt may also occur in the template itself.
        self._before, _, self._after = self.render(_MARK).partition(_MARK)

    @property
    def has_roles(self) -> bool:
        """True if the template can render conversations of several messages."""
        return self.name == "chat"

    def render(self, prompt: str) -> str:
        """The text that the base reads, without special tokens that the tokenizer adds."""
        if self.name == "llama2-inst":
            return f"{_INST[0]}{prompt}{_INST[1]}"
        if self.name == "raw":
            return prompt
        return self._render_chat([{"role": "user", "content": prompt}])

    def encode_prompt(self, prompt: str) -> EncodedPrompt:
        """Token ids of the rendered prompt, with the span of the user's own words."""
        return self._with_routed(prompt, self._encode_prompt)

    def _encode_prompt(self, prompt: str) -> EncodedPrompt:
        rendered = self.render(self._user_text.escape(prompt))
        return self._encode(rendered, self._before, self._after, prompt)

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> EncodedPrompt:
        """Token ids of a conversation, with the span of the words of its last message. A single
        message is encoded as a prompt.

        Raises ConfigError if the template cannot render the conversation.
        """
        *earlier, last = messages
        if not earlier:
            return self.encode_prompt(last["content"])
        if not self.has_roles:
            raise ConfigError(
                f"messages: the template {self.name} has no roles; send a single user message"
            )

        escape = self._user_text.escape
        escaped = [{**turn, "content": escape(turn["content"], turn["role"])} for turn in earlier]

        def encode(content: str) -> EncodedPrompt:
            text = self._render_chat([*escaped, {**last, "content": escape(content)}])
            return self._encode(text, before, after, content)

        try:
            marked = self._render_chat([*escaped, {**last, "content": _MARK}])
            before, _, after = marked.rpartition(_MARK)
            return self._with_routed(last["content"], encode)
        except TemplateError as err:
            raise ConfigError(f"messages: the base's chat template refuses them ({err})") from err

    def _with_routed(self, text: str, encode: Callable[[str], EncodedPrompt]) -> EncodedPrompt:
        """The encoded message, with its normalised form for routing where that differs."""
        form = routed_form(text)
        if form == text or not form:
            return encode(text)
        return replace(encode(text), routed=encode(form))

    def _render_chat(self, messages: Sequence[Mapping[str, str]]) -> str:
        text = str(
            self.tokenizer.apply_chat_template(
                list(messages),
                tokenize=False,
                add_generation_prompt=True,
                date_string=_DATE,
                enable_thinking=False,
            )
        )
        # Close a reasoning block that the template always opens, so that the answer comes next.
        return f"{text.rstrip()}\n\n{_END_THINK}\n\n" if _OPEN_THINK.search(text) else text

    def _encode(self, text: str, before: str, after: str, prompt: str) -> EncodedPrompt:
        """Token ids of a text in which the user's own words are between `before` and `after`."""
        # Special tokens have the empty span (0, 0) and never count as own words.
        ids, offsets = self._user_text.encode(text, add_special_tokens=self.name != "chat")
        # A template may strip the message; spans refer to the stripped text.
        words = unescape(text[len(before) : len(text) - len(after)])
        begin = len(unescape(before))
        end = begin + len(words)
        own = _tokens_within(offsets, begin, end)
        if own is None:
            raise ConfigError(f"prompt: {prompt[:60]!r} has no tokens")
        spans: dict[tuple[int, int], str] = {}
        for a, b in cut_spans(words):
            tokens = _tokens_within(offsets, begin + a, begin + b)
            if tokens is not None:
                spans.setdefault(tokens, words[a:b])
        return EncodedPrompt(tuple(ids), own, tuple(spans), tuple(spans.values()))

    def encode_target(self, target: str) -> tuple[int, ...]:
        """Token ids of the target and the end token, as they follow a rendered prompt."""
        text = f" {target}" if self.name == "raw" and not target[:1].isspace() else target
        return (*self.tokenize(text), self.end_id)

    def tokenize(self, text: str) -> list[int]:
        """Token ids of plain text, without template or control tokens."""
        return self._user_text.encode(self._user_text.escape(text), add_special_tokens=False)[0]

    def control_names(self, text: str) -> list[str]:
        """Control tokens and template markers whose names occur in a text, which an answer cannot
        contain; control tokens in text order."""
        markers = _INST if self.name == "llama2-inst" else ()
        names = self._user_text.control_names(text)
        return [*names, *(mark for mark in markers if mark in text and mark not in names)]

    def encode_edit(self, edit: Edit) -> EncodedEdit:
        """An edit's prompt and target as tokens."""
        return EncodedEdit(
            self.encode_prompt(edit.prompt), self.encode_target(edit.target), edit.seed
        )

    def decode(self, ids: list[int]) -> str:
        """The text of token ids, without special tokens and outer white space."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()


def _tokens_within(
    offsets: Sequence[tuple[int, int]], begin: int, end: int
) -> tuple[int, int] | None:
    """The half-open span of tokens with characters in begin .. end - 1; None if there are none."""
    inside = [i for i, (a, b) in enumerate(offsets) if a < end and b > max(begin, a)]
    return (inside[0], inside[-1] + 1) if inside else None
