"""Progress where there is no terminal: plain lines, not too many."""

import json
from io import StringIO

import pytest
from rich.text import Text

from scen.cli.output import (
    LineProgress,
    SafeConsole,
    escape,
    facts_table,
    line,
    make_table,
    out,
    pass_on,
    say,
    step_progress,
    write_error,
    write_json,
)


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What was said, without the dots."""
    return [line.removeprefix("· ") for line in capsys.readouterr().err.splitlines()]


def test_the_end_of_a_step_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    progress = LineProgress(every_s=3600)
    progress.start_wave("wave 0 of news: 5 edits")
    for _ in range(5):
        progress("train", 1, 5)
    progress("evaluate", 2, 4)
    assert lines(capsys) == ["wave 0 of news: 5 edits", "train 5/5"]


def test_progress_is_shown_when_due(capsys: pytest.CaptureFixture[str]) -> None:
    progress = LineProgress(every_s=0)
    progress("train", 2, 5)
    progress("train", 2, 5)
    assert lines(capsys) == ["train 2/5", "train 4/5"]


def test_each_wave_counts_from_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    progress = LineProgress(every_s=3600)
    for name in ("one", "two"):
        progress.start_wave(name)
        progress("train", 3, 3)
    assert lines(capsys) == ["one", "train 3/3", "two", "train 3/3"]


def test_a_log_is_given_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with step_progress() as progress:
        progress("train", 1, 1)
    assert lines(capsys) == ["train 1/1"]


UNSAFE = {
    "a terminal's title": ("\x1b]0;owned\x07", "\\x1b]0;owned\\x07"),
    "colours": ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
    "a link": ("\x1b]8;;http://x\x1b\\link", "\\x1b]8;;http://x\\x1b\\link"),
    "one byte for ESC [": ("\x9b2J", "\\x9b2J"),
    "a line written over": ("fine\rbad", "fine\\x0dbad"),
    "backspace, NUL, DEL": ("a\x08\x00\x7f", "a\\x08\\x00\\x7f"),
    "text from right to left": ("a\u202eb\u2066c\u200f", "a\\u202eb\\u2066c\\u200f"),
    "a line separator": ("a\u2028b\x85c", "a\\u2028b\\x85c"),
    "half of a surrogate pair": ("\ud800", "\\ud800"),
}
SAFE = [
    "плюс",
    "日本語",
    "שלום",
    "مرحبا",
    "e\u0301",
    "\N{FAMILY}\u200d\N{GIRL}",
    "a\nc",
    "[red]",
    "\\x1b",
]


@pytest.mark.parametrize(("text", "shown"), UNSAFE.values(), ids=UNSAFE)
def test_control_characters_are_spelt_out_wherever_text_is_shown(
    text: str, shown: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(out, "width", 200)
    assert escape(text) == shown
    out.print(text)
    out.print(facts_table({"prompt": text}))
    out.print(make_table(("prompt",), [(text,)], title=text))
    line(text)
    say(text)
    LineProgress().start_wave(text)
    write_error(text)
    pass_on(text)
    for stream, count in zip(capsys.readouterr(), (5, 4), strict=True):
        assert escape(stream) == stream
        assert stream.count(shown) == count


@pytest.mark.parametrize("text", SAFE)
def test_other_text_is_shown_as_it_is(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert escape(text) == text
    line(text)
    assert capsys.readouterr().out == f"{text}\n"


def test_styles_reach_a_terminal_and_control_characters_do_not() -> None:
    console = SafeConsole(force_terminal=True, color_system="standard", width=60, file=StringIO())
    console.print(Text("\x1b[2Jx", "red"))
    assert console.file.getvalue() == "\x1b[31m\\x1b[2Jx\x1b[0m\n"  # type: ignore[attr-defined]


def test_json_keeps_its_value_and_has_no_control_characters(
    capsys: pytest.CaptureFixture[str],
) -> None:
    value = dict(UNSAFE.values()) | {"plain": SAFE}
    write_json(value)
    [printed] = capsys.readouterr().out.splitlines()
    assert json.loads(printed) == value
    assert escape(printed) == printed
    assert "日本語" in printed
