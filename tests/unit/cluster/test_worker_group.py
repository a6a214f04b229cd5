"""A worker group that waits for ever says so."""

import logging

import pytest

from scen.cluster.worker_group import WorkerGroup, _warn_if_short
from scen.config import ClusterConfig
from scen.model.base import Base


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"workers": 3}, ["3 workers need 3 CPUs and the cluster has 2"]),
        ({"workers": 2, "gpus_per_worker": 1}, ["2 workers need 2 GPUs and the cluster has 0"]),
        ({"workers": 3, "min_workers": 2}, []),
        ({"workers": 4, "cpus_per_worker": 0.5}, []),
    ],
)
def test_what_a_cluster_has_not(
    settings: dict[str, float], words: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        _warn_if_short(ClusterConfig.model_validate(settings), {"CPU": 2.0})
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == len(words)
    assert all(text.startswith(word) for text, word in zip(told, words, strict=True))


def test_a_group_without_work_has_nobody_and_no_failure() -> None:
    with WorkerGroup() as group:
        assert group.failure is None
    assert group.figures == {}


def test_a_device_is_measured_before_there_are_workers_and_not_again(tiny: Base) -> None:
    """They may hold all of the cluster: what is asked beside them might never be answered."""
    asked: list[ClusterConfig] = []

    def measure(settings: ClusterConfig) -> int:
        asked.append(settings)
        return 1

    group = WorkerGroup()
    found = [group.strategy(ClusterConfig(), tiny, measure) for _ in range(3)]
    assert (found, len(asked)) == (["zero3"] * 3, 1)
