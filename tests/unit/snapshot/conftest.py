"""Settings of a store on the tiny base, and bundles to put into it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from scen.config import Config, load_config
from scen.fs import Storage

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
def make_config(tiny_folder: Path) -> MakeConfig:
    """Settings on the tiny base; keywords are sections."""

    def make(method: str = "scen-lr", **sections: dict[str, object]) -> Config:
        tiny = {"name": str(tiny_folder), "template": "llama2-inst", "dtype": "float32"}
        base = {**tiny, "device": "cpu", **sections.pop("base", {})}
        return load_config(fixed={"method": method, "base": base, **sections})

    return make
