"""Run a job on the cluster that this process is in, by its spec.

    python -m scen_jobs --spec '{"kind": "eval", "store": "s3://bucket/store"}'
    python -m scen_jobs --spec-file job.yaml --json

Safe to kill at any time and to run again: finished work is kept, and each edit is committed once.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from scen.cli.output import show_warnings, write_error
from scen.errors import ConfigError, ScenError
from scen.pipeline.job_spec import BenchmarkSpec, CalibrateSpec, JobSpec, parse_spec


def main(argv: Sequence[str], address: str = "auto") -> int:
    """Run a job on the cluster at `address`; the exit code of `scen`."""
    parser = argparse.ArgumentParser(prog="python -m scen_jobs", description="run a Ray job")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--spec", metavar="JSON", help="the job, as printed by `scen submit --print-spec`"
    )
    source.add_argument("--spec-file", metavar="FILE", help="the same as a JSON or YAML file")
    parser.add_argument("--json", action="store_true", help="the result as JSON on stdout")
    args = parser.parse_args(argv)
    show_warnings()
    try:
        spec = parse_spec(args.spec) if args.spec_file is None else read_spec(args.spec_file)
        run(spec, address, is_json=args.json)
    except ScenError as error:
        write_error(f"scen job: {error}")
        return error.exit_code
    return 0


def read_spec(path: str) -> JobSpec:
    """The spec in a JSON or YAML file. Raises ConfigError."""
    try:
        value = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as err:
        raise ConfigError(f"--spec-file: cannot read {path}: {err.strerror}") from err
    except (yaml.YAMLError, UnicodeDecodeError) as err:
        raise ConfigError(f"--spec-file: {path} is neither JSON nor YAML: {err}") from err
    if not isinstance(value, dict):
        raise ConfigError(f"--spec-file: {path} must hold fields such as `kind: stream`")
    return parse_spec(value)


def run(spec: JobSpec, address: str, *, is_json: bool) -> None:
    """Run a job and show the result. Raises ScenError."""
    if isinstance(spec, CalibrateSpec | BenchmarkSpec):
        from scen_jobs.task_jobs import run_task_job

        run_task_job(spec, address, is_json=is_json)
    else:
        from scen_jobs.group_jobs import run_group_job

        run_group_job(spec, address, is_json=is_json)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
