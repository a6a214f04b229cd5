"""A file of edits as one wave on a Ray cluster: `python -m scen_jobs.run_wave EDITS --store URI`.

Takes the arguments of `scen edit` but `--wave-size`. See `scen_jobs.run_stream`.
"""

import sys
from collections.abc import Sequence

from scen_jobs import run_stream

_ALL = 2**31  # edits: more than any file


def main(argv: Sequence[str], address: str = "auto") -> int:
    """Run the wave on the cluster at `address`; the exit code of `scen`."""
    return run_stream.main([*argv, f"--wave-size={_ALL}"], address)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
