"""A base calibrated on a Ray cluster: `python -m scen_jobs.run_calibrate --edits FILE --out FILE`.

Takes the arguments of `scen calibrate`, and --cpus and --gpus: what the one worker that does it
gets. The profile is written here, by the driver; files of edits are read by the worker.
"""

import contextlib
import io
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from scen.cli.calibrate_command import profile_path
from scen.cli.calibrate_command import run as calibrate
from scen.cli.parser import build_parser
from scen.cluster.session import ray_session
from scen.errors import ScenError
from scen_jobs.one_worker import result_of, worker_options, worker_parser


def main(argv: Sequence[str], address: str = "auto") -> int:
    """Calibrate on the cluster at `address`; the exit code of `scen`."""
    own, rest = worker_parser().parse_known_args(argv)
    path = profile_path(build_parser().parse_args(["calibrate", *rest]).out)
    try:
        with ray_session(address, show_workers=True) as ray:
            job = ray.remote(**worker_options(own), max_retries=0)(_calibrate)
            told, files = result_of(ray, job.remote(rest, str(path)))
    except ScenError as error:
        sys.stderr.write(f"scen job: {error}\n")
        return error.exit_code
    for suffix, content in files.items():
        path.with_suffix(suffix).write_bytes(content)
    sys.stdout.write(told)
    return 0


def _calibrate(words: list[str], path: str) -> tuple[str, dict[str, bytes]]:
    """On a worker: what `scen calibrate` prints, and the two files of the profile by suffix."""
    told = io.StringIO()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(told):
        here = Path(folder, Path(path).name)
        calibrate(build_parser().parse_args(["calibrate", *words, f"--out={here}"]))
        files = {file.suffix: file.read_bytes() for file in Path(folder).iterdir()}
    return told.getvalue().replace(str(here), path), files


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
