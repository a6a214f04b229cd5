"""Jobs that run as Ray tasks: one task per calibration, one per row of a benchmark."""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from scen.benchmark.run import (
    load_benchmark_base,
    publish,
    read_benchmark,
    run_benchmark,
    summary,
)
from scen.benchmark.settings import BenchmarkSettings, Row, RowStore
from scen.cli.evaluate import show_calibration, show_recalibration
from scen.cli.output import say, step_progress
from scen.cli.view import show_benchmark
from scen.cluster.session import passed_on, ray_session, worker_environment
from scen.errors import ScenError
from scen.fs import Storage
from scen.pipeline.job_spec import BenchmarkSpec, CalibrateSpec
from scen.pipeline.run_job import (
    Calibrated,
    calibrate_base,
    profile_path,
    recalibrate_store,
)


def run_task_job(spec: CalibrateSpec | BenchmarkSpec, address: str, *, is_json: bool) -> None:
    """Do the work on the cluster at `address` and show the result. Raises ScenError."""
    if isinstance(spec, CalibrateSpec) and spec.store is not None:
        with ray_session(address, show_workers=True) as ray:
            task = ray.remote(**_options(spec), max_retries=0)(recalibrate_store)
            show_recalibration(_result(ray, task.remote(spec, say, step_progress)), is_json=is_json)
        return
    if isinstance(spec, CalibrateSpec):
        show_calibration(_calibrate(spec, address), is_json=is_json)
        return
    settings = read_benchmark(spec.file, spec.methods, spec.sizes)
    with ray_session(address, show_workers=True) as ray:
        base_name, rows = _measure_all(ray, spec, settings)
    done = publish(settings, Storage(spec.out), base_name, rows, tracking=spec.tracking)
    show_benchmark(done, is_json=is_json)


def _calibrate(spec: CalibrateSpec, address: str) -> Calibrated:
    """Calibrate on one worker, which reads the files of edits; the driver writes the profile."""
    assert spec.out is not None
    path = profile_path(spec.out)
    with ray_session(address, show_workers=True) as ray:
        task = ray.remote(**_options(spec), max_retries=0)(_calibrate_here)
        done, files = _result(ray, task.remote(spec, path.name))
    for suffix, content in files.items():
        path.with_suffix(suffix).write_bytes(content)
    calibrated: Calibrated = done
    return replace(calibrated, path=path)


def _calibrate_here(spec: CalibrateSpec, name: str) -> tuple[Calibrated, dict[str, bytes]]:
    """On a worker: the calibration, and the two files of its profile by suffix."""
    with tempfile.TemporaryDirectory() as folder:
        here = spec.model_copy(update={"out": str(Path(folder, name))})
        done = calibrate_base(here, say, step_progress)
        return done, {file.suffix: file.read_bytes() for file in Path(folder).iterdir()}


def _measure_all(
    ray: Any, spec: BenchmarkSpec, settings: BenchmarkSettings
) -> tuple[str, list[Row]]:
    """The name of the base, and the rows in the order of the file. Each combination of
    method and number of edits is a task; rows already in `out` are not measured again."""
    task = ray.remote(**_options(spec), max_retries=2)(_measure)
    parts = [
        settings.model_copy(update={"sizes": [size], "methods": [method]})
        for size in settings.sizes
        for method in settings.methods
    ]
    threads = spec.threads or max(1, int(spec.cpus))
    references = [task.remote(part, spec.out, threads) for part in parts]
    done: list[tuple[str, Row]] = []
    for reference in references:
        done.append(_result(ray, reference))
        say(summary(done[-1][1]))
    return done[0][0], [row for _, row in done]


def _measure(settings: BenchmarkSettings, place: str, threads: int) -> tuple[str, Row]:
    """On a worker: the name of the base, and the row of a benchmark with one method and size."""
    torch.set_num_threads(threads)
    base = load_benchmark_base(settings, say)
    [row] = run_benchmark(base, settings, RowStore(Storage(place)), lambda *_: None)
    return base.name, row


def _options(spec: CalibrateSpec | BenchmarkSpec) -> dict[str, Any]:
    """Options of `ray.remote`: resources and environment of a worker."""
    environment = {"env_vars": worker_environment(spec.gpus) | passed_on()}
    return {"num_cpus": spec.cpus, "num_gpus": spec.gpus, "runtime_env": environment}


def _result(ray: Any, reference: Any) -> Any:
    """The result of a task. Raises the ScenError that it raised."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as err:
        if isinstance(err.cause, ScenError):
            raise err.cause from err
        raise
