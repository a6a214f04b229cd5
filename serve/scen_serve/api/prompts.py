"""Prompts as clients send them, as tokens: conversations, raw text and token ids."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from scen.base.template import Template
from scen.errors import ConfigError, InputError
from scen.records import EncodedPrompt
from scen_serve.api.schema import Message
from scen_serve.engine.detokenizer import token_offsets
from scen_serve.engine.request import ScoredText

_T = TypeVar("_T")
_MARK = "\ue000"  # a private-use character: no template has it


@dataclass(frozen=True)
class Prompt:
    """A prompt as tokens, and `question`, the form of it that is routed where that is another.
    `text` and `offsets` (characters before each token) are there for raw prompts, `answer_at` (a
    character) for those in the base's template."""

    encoded: EncodedPrompt
    question: EncodedPrompt | None = None
    text: str = ""
    offsets: tuple[int, ...] = ()
    answer_at: int | None = None
    is_routable: bool = True

    @property
    def scored(self) -> ScoredText:
        """The prompt where its own tokens are to get log-probabilities."""
        return ScoredText(self.text, self.offsets, self.answer_at)


async def encode_messages(template: Template, messages: Sequence[Message]) -> Prompt:
    """A conversation in the base's own template. Raises InputError for half a character, and
    ConfigError where the template refuses the messages."""
    plain = [message.plain() for message in messages]
    plain[-1]["content"] = plain[-1]["content"].strip()
    return Prompt(await _in_thread(lambda: template.encode_chat(plain)))


async def encode_raw(
    template: Template, prompt: str | list[int], *, add_special_tokens: bool = True
) -> Prompt:
    """Raw text, or token ids, as the base reads them: no template is put around it, and special
    tokens written out in the text are special tokens. Raises InputError for half a character."""
    return await _in_thread(lambda: _encode_raw(template, prompt, add_special_tokens))


def _encode_raw(template: Template, prompt: str | list[int], add_special_tokens: bool) -> Prompt:
    tokenizer = template.tokenizer
    if isinstance(prompt, str):
        encoding = tokenizer(
            prompt, add_special_tokens=add_special_tokens, return_offsets_mapping=True
        )
        ids, text = list(encoding["input_ids"]), prompt
        offsets = [begin for begin, _ in encoding["offset_mapping"]]
        if ids[:2] == [tokenizer.bos_token_id] * 2:  # the text begins with it already
            ids, offsets = ids[1:], offsets[1:]
    else:
        ids = prompt
        known = len(tokenizer)
        if any(not 0 <= token_id < known for token_id in ids):
            raise InputError(f"prompt: token ids are numbers from 0 to {known - 1}")
        text, offsets = token_offsets(tokenizer, ids)
    if not ids:
        raise InputError("prompt: has no tokens")
    asked, answer_at = _question(template, text)
    try:
        question = template.encode_prompt(asked)
    except ConfigError:  # nothing in it could be asked for
        question = None
    if question is not None and question.ids == tuple(ids):  # the template was there already
        return Prompt(question, None, text, tuple(offsets), answer_at)
    # Routing reads the question, so all of the prompt but its last token may be a known prefix.
    raw = EncodedPrompt(tuple(ids), (len(ids) - 1, len(ids)))
    return Prompt(raw, question, text, tuple(offsets), answer_at, question is not None)


def _question(template: Template, text: str) -> tuple[str, int | None]:
    """What raw text asks, and where the answer begins: the last message of the user, and the end of
    the template around it; all of the text, and None, where it is not in the base's template."""
    before, _, after = template.render(_MARK).partition(_MARK)
    specials = template.tokenizer.all_special_tokens
    turn = before[max(0, *(before.rfind(token) for token in specials)) :]
    if turn and after:
        begin = text.rfind(turn) + len(turn)
        end = text.find(after, begin)
        if begin >= len(turn) and end >= 0:
            return text[begin:end].strip(), end + len(after)
    return text.strip(), None


async def _in_thread(encode: Callable[[], _T]) -> _T:
    """Off the event loop: a long text takes a while."""
    try:
        return await asyncio.to_thread(encode)
    except (UnicodeError, TypeError) as err:
        raise InputError("prompt: is not valid text (half of a character?)") from err
