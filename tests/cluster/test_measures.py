"""What is asked of a worker before there is any."""

import psutil
import pytest
import torch

from scen.cluster.sharding import measure_device, measure_dtype
from scen.config import ClusterConfig
from scen.model.base import pick_dtype

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("ray")]


def test_a_worker_s_share_of_the_memory() -> None:
    whole = measure_device(ClusterConfig(cpus_per_worker=4))
    assert whole == psutil.virtual_memory().total
    assert measure_device(ClusterConfig(cpus_per_worker=1)) == whole // 4


def test_a_worker_s_number_type() -> None:
    here = str(pick_dtype("auto", torch.device("cpu"))).removeprefix("torch.")
    assert measure_dtype(ClusterConfig(), "cpu") == here
