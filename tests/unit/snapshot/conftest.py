"""Settings of a store on the tiny base, and bundles to put into it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from scen.config import Config, load_config
from scen.fs import Storage
from scen.model.base import Base
from scen.model.keys import KeyPlace
from scen.routing.keys import read_prompt_keys
from scen.routing.router import plain_router
from scen.snapshot.method import Profile

MakeConfig = Callable[..., Config]


@pytest.fixture
def neutral() -> list[str]:
    """Prompts for the base's own statistics."""
    return [f"What is {a} {b}?" for a in ("a red", "an old") for b in ("river", "king", "song")]


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    """An empty store."""
    return Storage(str(tmp_path / "store"))


@pytest.fixture
def profile(tiny: Base, neutral: list[str]) -> Profile:
    """Of the tiny base: one place, and scores of 100 hard negatives from 0 to 0.99."""
    places = (KeyPlace(2, "last"),)
    plain = plain_router(places, read_prompt_keys(tiny, places, neutral), 0.1, 0.5)
    score_N = torch.arange(100) / 100
    router = replace(plain, negative_N=score_N, kind_N=torch.zeros(100).long()).bounded(0.1)
    expert = {"layer": 3, "rank": 2, "lr": 0.05, "steps": 7}
    return Profile(tiny.describe(), expert, router, {"num_edits": 100})


@pytest.fixture
def make_config(tiny_folder: Path) -> MakeConfig:
    """Settings on the tiny base; keywords are sections."""

    def make(method: str = "scen-lr", **sections: dict[str, object]) -> Config:
        tiny = {"name": str(tiny_folder), "template": "llama2-inst", "dtype": "float32"}
        base = {**tiny, "device": "cpu", **sections.pop("base", {})}
        return load_config(fixed={"method": method, "base": base, **sections})

    return make
