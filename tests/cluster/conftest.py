"""One real Ray head for all cluster tests: on 127.0.0.1, with the dashboard, so that jobs work."""

import shutil
from collections.abc import Iterator

import pytest

from cluster.ray_head import Head, settle_environment, start_head, stop_tree
from scen.cluster.session import ray_session

HOME = settle_environment()


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
