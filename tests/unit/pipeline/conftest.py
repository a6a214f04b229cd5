"""Parts on a store of the tiny base, and six facts that it learns in a second."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from scen.config import load_config
from scen.fs import Storage
from scen.pipeline.local import LocalParts
from scen.records import Edit
from scen.snapshot.open import create_store
from scen.tracking.client import NullTracker

NEUTRAL = [f"What is {a} {b}?" for a in ("a red", "an old") for b in ("river", "king", "song")]
LOCALITY = ["Where is it?", "Who was here before them?"]
LEARNS = {"scen-lr": {"steps": 20, "lr": 0.1}, "scen": {"steps": 40, "lr": 0.02}}

MakeParts = Callable[..., LocalParts]


@pytest.fixture
def facts(edits: list[Edit]) -> list[Edit]:
    """The six edits with short targets."""
    return [replace(edit, target=edit.target[:5]) for edit in edits]


@pytest.fixture
def make_parts(tiny_folder: Path, tmp_path: Path) -> MakeParts:
    """Parts on a store in the test's own folder; keywords are sections of the settings."""

    def make(method: str = "scen-lr", **sections: dict[str, object]) -> LocalParts:
        tiny = {"name": str(tiny_folder), "template": "llama2-inst", "dtype": "float32"}
        settings: dict[str, dict[str, object]] = {
            "base": {**tiny, "device": "cpu"},
            "expert": {"layer": 3, "batch_size": 4, **LEARNS[method]},
            "router": {"theta": 0.5, "neuron_lr": 0.05},
            "evaluation": {"batch_size": 4, "max_new_tokens": 24, "locality_tokens": 6},
            "waves": {"size": 3},
        }
        for name, section in sections.items():
            settings[name] = settings[name] | section
        config = load_config(fixed={"method": method, **settings})
        store = create_store(Storage(str(tmp_path / "store")), config, NEUTRAL)
        return LocalParts(store, config, LOCALITY, NullTracker())

    return make


@pytest.fixture
def parts(make_parts: MakeParts) -> LocalParts:
    """Parts of method scen-lr on an empty store, in waves of three edits."""
    return make_parts()
