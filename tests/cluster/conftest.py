"""One real Ray head for all cluster tests: on 127.0.0.1, with the dashboard, so that jobs work."""

import os
import shutil
import sys
from collections.abc import Iterator

import pytest

from cluster.ray_head import Head, settle_environment, start_head, stop_tree
from scen.cluster.session import ray_session

HOME = settle_environment()
_STATUS = pytest.StashKey[int]()


@pytest.fixture(scope="session")
def head() -> Iterator[Head]:
    """A running head. Its processes end with the tests."""
    process, head = start_head(HOME)
    try:
        yield head
    finally:
        stop_tree(process)
        shutil.rmtree(HOME, ignore_errors=True)


@pytest.fixture
def ray(head: Head) -> Iterator[object]:
    """Ray, connected to the head."""
    with ray_session(head.address) as ray:
        yield ray


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Keep the result of the tests for `pytest_unconfigure`."""
    session.config.stash[_STATUS] = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """End the process here, when everything is reported and cleaned up, with the tests' result.

    Native threads of Ray may outlive `ray.shutdown` and crash the interpreter in its teardown, now
    and then (ray-project/ray#31145, #47864): a passed run would end with a segmentation fault.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if _STATUS in config.stash:
        os._exit(config.stash[_STATUS])
