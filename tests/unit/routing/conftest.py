"""A small router, and raw keys as a base would give them."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from scen.model.keys import KeyPlace
from scen.routing.gate import Gate
from scen.routing.keys import Whitening, compose_encoder, random_view
from scen.routing.router import Router

MakeKeys = Callable[[int, int], Tensor]

PLACES = (KeyPlace(1, "mean"), KeyPlace(4, "last"))
WIDTH = 24


@pytest.fixture
def make_keys() -> MakeKeys:
    """make(rows, seed): key_NKF at two places of 24 numbers, far from zero, unequally spread."""

    def make(rows: int, seed: int) -> Tensor:
        draw = torch.Generator().manual_seed(seed)
        spread_F = torch.linspace(0.2, 5, WIDTH)
        return 3 + spread_F * torch.randn(rows, len(PLACES), WIDTH, generator=draw)

    return make


@pytest.fixture
def router(make_keys: MakeKeys) -> Router:
    """Two places, views of 8 and 4 numbers, a gate that rises with all similarities."""
    views = [random_view(2, WIDTH, width, seed=width) for width in (8, 4)]
    encoder = compose_encoder(Whitening.fit(make_keys(100, 9), 0.1), PLACES, views)
    gate = replace(Gate.initial(4, 3, seed=0), direct_V=torch.tensor([4.0, 1.0, 3.0, 2.0]))
    negative_N = torch.arange(100) / 10
    return Router(encoder, gate, 8.9, 0.1, negative_N, torch.arange(100) % 3)
