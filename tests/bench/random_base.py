"""A tiny random base for benchmarks of all that is not the model."""

import sys
from contextlib import redirect_stdout
from pathlib import Path

from conftest import write_tiny_base


def make_random_base(folder: Path) -> Path:
    """The base of the tests. Transformers loads DeepSpeed to save it, which tells stdout of the
    device that it found; only figures may stand there."""
    with redirect_stdout(sys.stderr):
        return write_tiny_base(folder)
