"""When is a base split over the workers?"""

import pytest

from scen.cluster.sharding import base_bytes, choose_strategy
from scen.config import ClusterConfig
from scen.model.base import Base


def unasked(_: ClusterConfig) -> int:
    """A device that must not be measured."""
    raise AssertionError


def test_the_size_of_a_base(tiny: Base) -> None:
    weights = sum(weight.numel() for weight in tiny.model.parameters())
    assert base_bytes(tiny) == 4 * weights


def test_what_is_set_holds(tiny: Base) -> None:
    for strategy in ("replicate", "zero3"):
        settings = ClusterConfig.model_validate({"strategy": strategy})
        assert choose_strategy(settings, tiny, unasked) == strategy


@pytest.mark.parametrize(("memory", "strategy"), [(2.0, "replicate"), (1.9, "zero3")])
def test_half_of_a_device_is_for_the_base(tiny: Base, memory: float, strategy: str) -> None:
    room = int(memory * base_bytes(tiny))
    assert choose_strategy(ClusterConfig(), tiny, lambda _: room) == strategy
