"""What every benchmark shares: its options, and JSON lines that name the hardware."""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from scen.data import Validator, ingest
from scen.model.base import Base
from scen.model.weights import EMBEDDED_NAME
from scen.records import EncodedEdit
from scen.samples import sample_path
from scen.training.experts import encode_edits

T = TypeVar("T")


def new_parser(text: str | None) -> argparse.ArgumentParser:
    """A parser that shows the text of a benchmark's module as it is written."""
    return argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def base_option(parser: argparse.ArgumentParser) -> None:
    """`--base`, for another base than the one that the figures are stated for."""
    parser.add_argument(
        "--base",
        default=EMBEDDED_NAME,
        metavar="BASE",
        help="hub id, folder or .gguf file (%(default)s)",
    )


def numbers(text: str) -> list[int]:
    """The type of an option that takes several numbers, such as `1,8,32`."""
    return [int(number) for number in text.split(",")]


def paper_layer(base: Base) -> int:
    """The layer of experts two thirds up, as published: 20 of the default base's 30."""
    return base.num_layers * 2 // 3


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
    """The first ZsRE edits of the shipped sample, as tokens, with their other ways of asking."""
    found: list[EncodedEdit] = []
    for batch in ingest(sample_path("zsre_edits.jsonl"), Validator(), limit=count):
        found.extend(encode_edits(base.template, batch.edits, other_ways=True))
    return found
