"""Templates: what the base reads, and where the user's own words are."""

from typing import Any

import pytest

from scen.errors import BaseError, ConfigError
from scen.model.base import Base
from scen.model.template import Template

CHAT = (
    "{% for m in messages %}<s>system\nYou answer Why? well\n{{ m['role'] }}: "
    "{{ m['content'] }}\n{% endfor %}answer:"
)


def own_words(template: Template, prompt: str) -> str:
    encoded = template.encode_prompt(prompt)
    begin, end = encoded.own
    return str(template.tokenizer.decode(list(encoded.ids[begin:end])))


@pytest.fixture
def chatty(tiny: Base) -> Any:
    tiny.tokenizer.chat_template = CHAT
    return tiny.tokenizer


def test_llama2_inst_is_the_paper_s_form(tiny: Base) -> None:
    template = Template("llama2-inst", tiny.tokenizer)
    assert template.render("Who?") == "[INST]Who?[/INST]"
    assert own_words(template, "Who?") == "Who?"


def test_chat_finds_the_user_s_words_and_not_the_system_s(chatty: Any) -> None:
    template = Template("chat", chatty)
    encoded = template.encode_prompt("Why?")
    assert own_words(template, "Why?") == "Why?"
    assert template.render("Why?").index("Why?") < encoded.own[0]  # the system's come first


@pytest.mark.parametrize("prompt", ["answer", "user", "Why?", "  Why?  ", "é"])
def test_words_of_the_template_itself_are_not_the_user_s(chatty: Any, prompt: str) -> None:
    chatty.chat_template = CHAT.replace("m['content']", "m['content'] | trim")
    template = Template("chat", chatty)
    assert template.encode_prompt(prompt).own[0] == template.encode_prompt("x").own[0]
    assert own_words(template, prompt) == prompt.strip()


def test_llama2_inst_may_be_asked_for_its_own_marks(tiny: Base) -> None:
    template = Template("llama2-inst", tiny.tokenizer)
    assert template.encode_prompt("INST").own[0] == template.encode_prompt("Who?").own[0]


@pytest.mark.parametrize("name", ["raw", "llama2-inst"])
def test_an_empty_prompt_is_refused(tiny: Base, name: Any) -> None:
    with pytest.raises(ConfigError, match="prompt: '' has no tokens"):
        Template(name, tiny.tokenizer).encode_prompt("")


def test_an_answer_does_not_depend_on_the_day(chatty: Any) -> None:
    chatty.chat_template = (
        "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}"
        "{% endif %}Today is {{ date_string }}. {{ messages[0]['content'] }}"
    )  # as Llama-3.2 has it
    assert Template("chat", chatty).render("Who?") == "Today is 26 Jul 2024. Who?"


def test_a_tokenizer_without_an_end_token_is_refused(tiny: Base) -> None:
    tiny.tokenizer.eos_token = None
    with pytest.raises(BaseError, match="no end token"):
        Template("raw", tiny.tokenizer)


def test_raw_puts_a_space_before_the_target(tiny: Base) -> None:
    template = Template("raw", tiny.tokenizer)
    ids = template.encode_target("Oslo")
    assert tiny.tokenizer.decode(list(ids[:-1])) == " Oslo"
    assert template.encode_target(" Oslo") == ids


def test_a_target_ends_with_the_end_token(tiny: Base) -> None:
    for name in ("raw", "llama2-inst"):
        template = Template(name, tiny.tokenizer)
        assert template.encode_target("Oslo")[-1] == tiny.tokenizer.eos_token_id


def test_auto_is_chat_where_there_is_a_chat_template(tiny: Base) -> None:
    assert Template("auto", tiny.tokenizer).name == "raw"
    tiny.tokenizer.chat_template = CHAT
    assert Template("auto", tiny.tokenizer).name == "chat"


def test_chat_needs_a_chat_template(tiny: Base) -> None:
    with pytest.raises(BaseError, match="no chat template"):
        Template("chat", tiny.tokenizer)


def test_an_unknown_template_lists_the_known(tiny: Base) -> None:
    with pytest.raises(ConfigError, match="llama2-inst"):
        Template("alpaca", tiny.tokenizer)  # type: ignore[arg-type]


def test_decoding_leaves_special_tokens_out(tiny: Base) -> None:
    ids = list(tiny.template.encode_target("Oslo"))
    assert tiny.template.decode(ids) == "Oslo"


def test_a_conversation_is_read_whole_and_its_last_question_is_the_own_words(chatty: Any) -> None:
    template = Template("chat", chatty)
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": "So."},
        {"role": "user", "content": "Why then?"},
    ]
    encoded = template.encode_chat(messages)
    text = chatty.decode(list(encoded.ids))
    assert all(message["content"] in text for message in messages)
    begin, end = encoded.own
    assert chatty.decode(list(encoded.ids[begin:end])) == "Why then?"
    assert "Why then?" not in chatty.decode(list(encoded.ids[:begin]))
    assert template.encode_chat(messages[1:2]) == template.encode_prompt("Why?")


def test_a_conversation_that_the_template_refuses(tiny: Base, chatty: Any) -> None:
    turns = [{"role": "assistant", "content": "So."}, {"role": "user", "content": "Why?"}]
    with pytest.raises(ConfigError, match="llama2-inst has no roles"):
        Template("llama2-inst", tiny.tokenizer).encode_chat(turns)
    chatty.chat_template = (
        "{% if messages[0].role != 'user' %}{{ raise_exception('no') }}{% endif %}" + CHAT
    )
    with pytest.raises(ConfigError, match=r"refuses them \(no\)"):
        Template("chat", chatty).encode_chat(turns)
