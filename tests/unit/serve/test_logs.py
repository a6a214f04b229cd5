"""Lines that machines can read, and lines that people can."""

import json
import logging

import pytest

from scen_serve.logs import JsonLines, TextLines, log_event, setup_logs

NASTY = 'a "b" = c\n{"event": "start"}\x1b[31m é'


@pytest.fixture
def told() -> tuple[logging.Logger, list[logging.LogRecord]]:
    """A logger of its own, and what it is told."""
    found: list[logging.LogRecord] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record)

    logger = logging.Logger("scen_serve.test")
    logger.addHandler(Kept())
    return logger, found


def test_an_event_is_one_json_object(
    told: tuple[logging.Logger, list[logging.LogRecord]],
) -> None:
    logger, records = told
    log_event(logger, "swap", {"version": 3, "seconds": 0.25, "path": NASTY, "edit_id": None})
    logger.warning("%s is %d", "it", 5)
    lines = [JsonLines().format(record) for record in records]
    assert all("\n" not in line and line.isascii() for line in lines)
    event, message = map(json.loads, lines)
    assert event.pop("time").endswith("Z")
    assert event == {
        "level": "info",
        "event": "swap",
        "version": 3,
        "seconds": 0.25,
        "path": NASTY,
        "edit_id": None,
    }
    assert message.pop("time") >= lines[0][10:34]
    assert message == {
        "level": "warning",
        "event": "message",
        "logger": "scen_serve.test",
        "message": "it is 5",
    }


def test_an_error_is_told_with_its_trace(
    told: tuple[logging.Logger, list[logging.LogRecord]],
) -> None:
    logger, records = told
    try:
        raise ValueError("broken")
    except ValueError:
        logger.exception("it failed")
    line = json.loads(JsonLines().format(records[0]))
    assert (line["level"], line["message"]) == ("error", "it failed")
    assert "ValueError: broken" in line["error"]
    assert "ValueError: broken" in TextLines().format(records[0])


def test_an_event_is_one_line_of_words(
    told: tuple[logging.Logger, list[logging.LogRecord]],
) -> None:
    logger, records = told
    log_event(logger, "request", {"status": 200, "key": None, "path": NASTY, "id": "x-1"})
    line = TextLines().format(records[0])
    assert "\n" not in line
    assert "\x1b" not in line
    when, level, *words = line.split(" ", 3)
    assert (when[-1], level, words[0]) == ("Z", "info", "request")
    assert words[1] == f"status=200 path={json.dumps(NASTY)} id=x-1"


def test_a_guest_leaves_the_other_loggers_alone(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before = (list(root.handlers), root.level)
    try:
        setup_logs("json", "warning", is_guest=True)
        log_event(logging.getLogger("scen_serve.follower"), "swap", {})
        logging.getLogger("scen_serve.follower").error("bad")
        assert (list(root.handlers), root.level) == before
        [line] = capsys.readouterr().err.splitlines()
        assert json.loads(line)["message"] == "bad"
    finally:
        for name in ("scen", "scen_serve"):
            logger = logging.getLogger(name)
            logger.handlers, logger.propagate = [], True
            logger.setLevel(logging.NOTSET)
