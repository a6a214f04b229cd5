"""Text while it comes: whole characters, nothing from a stop string on, nothing lost."""

import pytest

from scen.model.base import Base
from scen_serve.engine.decoding import IncrementalDetokenizer

TEXT = "naïve 🙂 café — ends. Here"


def tell(
    tiny: Base, text: str, stop: tuple[str, ...] = ()
) -> tuple[list[str], IncrementalDetokenizer]:
    """What is told token by token (a byte each), then at the end."""
    transcript = IncrementalDetokenizer(tiny.tokenizer, stop)
    pieces = []
    for token in tiny.tokenizer(text, add_special_tokens=False)["input_ids"]:
        pieces.append(transcript.push(token))
        if transcript.is_stopped:
            break
    return [*pieces, transcript.finish()], transcript


def test_a_character_of_many_bytes_is_told_once_it_is_whole(tiny: Base) -> None:
    pieces, _ = tell(tiny, TEXT)
    assert "".join(pieces) == TEXT
    assert "🙂" in pieces
    assert not any("\ufffd" in piece for piece in pieces)


@pytest.mark.parametrize("stop", [("ends.",), ("never", "ends."), ("— ends", "ends.", "Here")])
def test_nothing_is_told_from_a_stop_string_on(tiny: Base, stop: tuple[str, ...]) -> None:
    pieces, transcript = tell(tiny, TEXT, stop)
    assert transcript.is_stopped
    assert "".join(pieces) == TEXT[: min(TEXT.find(s) for s in stop if s in TEXT)]


def test_what_only_began_like_a_stop_string_is_told_in_the_end(tiny: Base) -> None:
    pieces, transcript = tell(tiny, TEXT, ("Here it is",))
    assert "".join(pieces) == TEXT
    assert not transcript.is_stopped
    assert pieces[-1] != ""


def test_a_broken_character_is_told_as_such_in_the_end(tiny: Base) -> None:
    transcript = IncrementalDetokenizer(tiny.tokenizer)
    begun = tiny.tokenizer("🙂", add_special_tokens=False)["input_ids"][:2]
    assert [transcript.push(token) for token in begun] == ["", ""]
    assert transcript.finish() == "\ufffd"


@pytest.mark.parametrize("stop", [(), ("Here it is",)])
def test_the_length_is_that_of_whole_characters(tiny: Base, stop: tuple[str, ...]) -> None:
    """Told or held back; a token within a character begins where the character does."""
    transcript = IncrementalDetokenizer(tiny.tokenizer, stop)
    ids = tiny.tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    begins = []
    for token in ids:
        begins.append(transcript.length)
        transcript.push(token)
    expected = [at for at, letter in enumerate(TEXT) for _ in letter.encode()]
    assert begins == expected
    assert transcript.length == len(TEXT)
