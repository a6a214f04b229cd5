"""Run every benchmark in a process of its own: `make bench`. Prints JSON lines."""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main() -> int:
    """Run them all; the worst exit code."""
    env = os.environ | {"PYTHONPATH": str(HERE.parent)}
    codes = [
        subprocess.run([sys.executable, str(path)], env=env, check=False).returncode
        for path in sorted(HERE.glob("bench_*.py"))
    ]
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
