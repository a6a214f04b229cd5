"""Log lines, and the figures of a request in its log line and its trace."""

import json
import logging

import pytest

from scen_serve.engine.request import Ended, Event, Failed, Piece, Routed
from scen_serve.telemetry import (
    JsonLines,
    RequestRecord,
    TextLines,
    log_event,
    request_id,
    setup_logs,
    trace_of,
)

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
        log_event(logging.getLogger("scen_serve.service"), "swap", {})
        logging.getLogger("scen_serve.service").error("bad")
        assert (list(root.handlers), root.level) == before
        [line] = capsys.readouterr().err.splitlines()
        assert json.loads(line)["message"] == "bad"
    finally:
        for name in ("scen", "scen_serve"):
            logger = logging.getLogger(name)
            logger.handlers, logger.propagate = [], True
            logger.setLevel(logging.NOTSET)


SECRET = "the tsar's own words"


def record_of(*answers: list[Event], status: int = 200) -> RequestRecord:
    """A request whose answers were told these events."""
    record = RequestRecord("r-1", "POST", "/v1/chat/completions", "app", status)
    for events in answers:
        told: list[Event] = []
        sink = record.watch(told.append)
        for event in events:
            sink(event)
        assert told == events
    record.seconds = 1.5
    return record


def test_the_route_of_the_first_answer_and_the_tokens_of_all() -> None:
    record = record_of(
        [Routed(3, "edit-1", 2.34567), Piece(SECRET), Ended("stop", 5, 7)],
        [Routed(3, None, -4.0), Piece("b"), Ended("length", 5, 2)],
    )
    found = record.fields()
    first = found.pop("first_token_seconds")
    assert 0 <= first < 5
    assert found == {
        "request_id": "r-1",
        "key": "app",
        "method": "POST",
        "path": "/v1/chat/completions",
        "status": 200,
        "seconds": 1.5,
        "route": "edit",
        "edit_id": "edit-1",
        "score": 2.3457,
        "version": 3,
        "answers": 2,
        "prompt_tokens": 10,
        "new_tokens": 9,
        "reason": "stop",
    }


@pytest.mark.parametrize(
    ("events", "status", "told"),
    [
        ([Routed(3, None, -4.0), Ended("length", 5, 1)], 200, ("base", 3, "length")),
        ([Routed(3, None, -4.0), Piece("a")], 200, ("base", 3, "cancelled")),
        ([Failed(RuntimeError(SECRET))], 500, (None, None, "failed")),
        ([], 503, (None, None, "failed")),
    ],
)
def test_how_an_answer_ended(
    events: list[Event], status: int, told: tuple[str | None, int | None, str]
) -> None:
    found = record_of(events, status=status).fields()
    assert (found["route"], found["version"], found["reason"]) == told
    assert SECRET not in str(found)


def test_the_base_may_have_been_asked_for() -> None:
    record = record_of([Routed(3, None, None), Ended("length", 5, 1)])
    record.is_edited = False
    assert (record.fields()["route"], record.fields()["score"]) == ("off", None)


def test_a_request_that_asks_nothing_has_few_figures() -> None:
    assert set(record_of(status=401).fields()) == {
        *("request_id", "key", "method", "path", "status", "seconds")
    }


def test_an_id_is_the_client_s_where_it_is_one() -> None:
    assert request_id("req_1.a:B-2") == "req_1.a:B-2"
    for odd in (None, "", "a b", "x" * 81, "a\nb", 'a"'):
        made = request_id(odd)
        assert len(made) == 32
        assert made != request_id(odd)


def test_a_trace_has_the_parts_of_each_answer() -> None:
    routed = Routed(3, "edit-1", 2.5, prefill_s=0.5, route_s=0.25)
    record = record_of([routed, Piece(SECRET), Ended("stop", 5, 7)])
    told = trace_of(record)
    assert [part.name for part in told.parts] == ["wait", "prefill", "route", "decode"]
    _, prefill, route, decode = told.parts
    assert prefill.end - prefill.begin == pytest.approx(0.5, abs=1e-4)
    assert route.end - route.begin == pytest.approx(0.25, abs=1e-4)
    assert (prefill.end, route.end) == (route.begin, decode.begin)
    assert abs(route.end - record.at) < 5  # UNIX time
    assert (route.attributes["edit_id"], decode.attributes["new_tokens"]) == ("edit-1", 7)
    assert told.attributes == record.fields()
    assert told.end - told.begin == pytest.approx(1.5, abs=1e-4)
    assert not told.is_error
    assert SECRET not in repr(told)


def test_a_trace_has_text_where_that_was_wanted() -> None:
    record = RequestRecord("r-1", "POST", "/v1/completions")
    record.with_text, record.prompts = True, ["Who?"]
    sink = record.watch(lambda _event: None)
    for event in (Routed(3, None, None), Piece("a"), Piece("b"), Failed(RuntimeError())):
        sink(event)
    told = trace_of(record)
    assert (told.inputs, told.outputs, told.is_error) == (["Who?"], ["ab"], True)
