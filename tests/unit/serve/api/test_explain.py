"""Work for the engine's thread that is no answer, such as explaining a route."""

import threading

import pytest

from scen_serve.engine.engine import Engine
from scen_serve.engine.request import BusyError
from unit.serve.conftest import ask, finish, serve_edits


def test_work_waits_for_the_next_step(engine: Engine) -> None:
    client = ask(engine, serve_edits(1)[0].prompt)
    done = engine.between_steps(threading.get_ident)
    failed = engine.between_steps(lambda: 1 // 0)
    cancelled = engine.between_steps(lambda: pytest.fail("must not run"))
    assert not done.done()
    assert cancelled.cancel()
    thread = threading.Thread(target=engine.step)
    thread.start()
    thread.join()
    assert done.result(0) != threading.get_ident()
    assert not failed.done()  # one piece each step
    finish(engine, [client])
    assert isinstance(failed.exception(0), ZeroDivisionError)
    assert client.ended.completion_tokens > 0


def test_too_much_work_is_refused(engine: Engine) -> None:
    waiting = [engine.between_steps(lambda: 1) for _ in range(16)]
    with pytest.raises(BusyError, match="try again"):
        engine.between_steps(lambda: 1)
    assert all(engine.step() for _ in waiting)
    assert [one.result(0) for one in waiting] == [1] * 16
    assert not engine.step()
