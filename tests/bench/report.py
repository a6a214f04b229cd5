"""What every benchmark prints: JSON lines that name the hardware, and ratios from one run."""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from scen.base.load import Base
from scen.ingest import Validator, ingest
from scen.records import EncodedEdit
from scen.samples import sample_path

T = TypeVar("T")


def emit(**figures: object) -> None:
    """Print one line of figures."""
    sys.stdout.write(json.dumps(figures | {"hardware": hardware()}) + "\n")
    sys.stdout.flush()


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """The result of some work and its wall time in seconds."""
    began = time.perf_counter()
    result = work()
    return result, time.perf_counter() - began


def hardware() -> str:
    """The processor, the threads that torch uses, and torch's version."""
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    place = torch.cuda.get_device_name() if torch.cuda.is_available() else (names or ["CPU"])[0]
    return f"{place}, {os.cpu_count()} cores, torch {torch.__version__}"


def sample_edits(base: Base, count: int) -> list[EncodedEdit]:
    """The first ZsRE edits of the shipped sample, as tokens."""
    found: list[EncodedEdit] = []
    for batch in ingest(sample_path("zsre_edits.jsonl"), Validator(), limit=count):
        found.extend(base.template.encode_edit(edit) for edit in batch.edits)
    return found
