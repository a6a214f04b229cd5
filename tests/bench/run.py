"""Run every benchmark in a process of its own: `make bench`. Prints JSON lines."""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def scripts() -> list[Path]:
    """The benchmarks, in the order in which they run."""
    return sorted(HERE.glob("bench_*.py"))


def main() -> int:
    """Run them all, whatever becomes of one; 1 where any failed or was killed, else 0."""
    env = os.environ | {"PYTHONPATH": str(HERE.parent)}
    codes = [
        subprocess.run([sys.executable, str(path)], env=env, check=False).returncode
        for path in scripts()
    ]
    return int(any(codes))


if __name__ == "__main__":
    sys.exit(main())
