"""A store without edits for benchmarks."""

from pathlib import Path
from typing import Any

from scen.config import load_config
from scen.data.read import read_prompts
from scen.fs import Storage
from scen.samples import sample_path
from scen.snapshot.open import OpenStore, create_store


def make_plain_store(folder: Path, base: str, **fixed: Any) -> OpenStore:
    """A new store below a folder, on a base, under the default settings but these."""
    config = load_config(fixed={"base": {"name": base}} | fixed)
    neutral = read_prompts(sample_path("nq_neutral.jsonl"))
    return create_store(Storage(str(folder / "store")), config, neutral)
