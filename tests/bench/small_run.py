"""Runs a benchmark as tests/README.md does, and reads what it prints."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from cluster.ray_head import stop_tree

ROOT = Path(__file__).parents[2]

Line = dict[str, Any]


def run_bench(script: str, *flags: object) -> list[Line]:
    """The lines of `PYTHONPATH=tests python tests/bench/SCRIPT FLAGS`, with one thread: more gain
    nothing on a tiny base and wait for each other on a busy machine. AssertionError where it fails
    or a line does not name the hardware, ValueError where one is not JSON."""
    command = [sys.executable, f"tests/bench/{script}", *map(str, flags)]
    process: subprocess.Popen[Any] = subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": "tests", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        out, err = process.communicate()
    finally:
        if process.poll() is None:  # the test has taken too long
            stop_tree(process)  # with the Ray head that it may have started
    assert process.returncode == 0, err[-4000:]
    lines = [json.loads(line) for line in out.splitlines()]
    assert lines
    assert all("torch" in line["hardware"] for line in lines)
    return lines


def figures(line: Line, *names: str) -> list[float]:
    """These figures of a line. AssertionError where one is missing or not a finite number."""
    found: list[Any] = []
    for name in names:
        value = line.get(name)
        found += value if isinstance(value, list) else [value]
    assert all(type(value) in (int, float) and math.isfinite(value) for value in found), line
    return found


def least(line: Line, *names: str) -> float:
    """The smallest of these figures."""
    return min(figures(line, *names))
