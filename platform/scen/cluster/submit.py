"""Submit a job by its spec, with paths that hold on every node of the cluster."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from scen.cluster.jobs import JobClient, Submission, Submitted
from scen.cluster.session import passed_on
from scen.config import Config, load_config
from scen.data.files import locate
from scen.errors import ConfigError
from scen.pipeline.job_spec import (
    BenchmarkSpec,
    CalibrateSpec,
    DrainSpec,
    JobSpec,
    StreamSpec,
    parse_spec,
)
from scen.records import digest_json

_PACKAGES = ("scen", "scen_jobs")
_NO_PATHS = {"auto", "shipped", "none"}  # values of router.profile that are not paths
_MAX_SPEC = 100_000  # characters: Linux takes 128 KiB per argument of a program
_Spec = TypeVar("_Spec", bound="JobSpec")


def submit(
    spec: JobSpec | Mapping[str, Any],
    address: str,
    *,
    again: bool = False,
    python: str = "python",
    sends_code: bool = True,
    driver_cpus: float = 0,
) -> Submitted:
    """Run a job on a Ray cluster, by the address of its dashboard (http://host:8265).

    `spec` is a `StreamSpec`, `DrainSpec`, `EvalSpec`, `CalibrateSpec` or `BenchmarkSpec`, or the
    same as a dict with its `kind`. Every node of the cluster must be able to read files, store and
    base. Submitting the same work again returns the job that is running or (without `again`) done;
    a changed input file makes it other work. `python` is the head's interpreter; with `sends_code`
    the cluster runs this code, otherwise its installed release. `driver_cpus` are CPU cores of the
    driver.

    Raises ConfigError for an invalid spec or if no cluster answers, ConflictError if another job
    is running the stream.
    """
    portable_spec = portable(spec if isinstance(spec, JobSpec) else parse_spec(spec))
    text = portable_spec.to_json()
    if len(text) > _MAX_SPEC:
        raise ConfigError(
            f"spec: {len(text)} characters are more than {_MAX_SPEC}; put settings into a file "
            "that the cluster's nodes have, and name it in settings_file"
        )
    job = Submission(
        spec=text,
        label=_stream(portable_spec) or portable_spec.kind,
        stream=_stream(portable_spec),
        store=getattr(portable_spec, "store", "").rstrip("/"),
        mark="".join(map(file_mark, _inputs(portable_spec))),
        python=python,
        packages=_code() if sends_code else (),
        environment=passed_on(),
    )
    return JobClient(address).submit(job, driver_cpus, again=again)


def portable(spec: _Spec) -> _Spec:
    """The spec made independent of the working directory: paths are absolute, and the contents of
    settings files and DeepSpeed configurations are inlined. Raises ConfigError."""
    changes: dict[str, Any] = {}
    for name in spec.PATHS:
        value = getattr(spec, name)
        if value is not None:
            is_single = isinstance(value, str)
            changes[name] = full_path(value) if is_single else tuple(map(full_path, value))
    if isinstance(spec, CalibrateSpec) and spec.base.name is not None:
        name = full_path(spec.base.name, is_base=True)
        changes["base"] = spec.base.model_copy(update={"name": name})
    elif not isinstance(spec, CalibrateSpec | BenchmarkSpec):
        explicit = spec.settings.model_dump(exclude_unset=True)
        changes["settings"] = _portable_config(load_config(spec.settings_file, fixed=explicit))
        changes["settings_file"] = None
    return cast("_Spec", spec.model_copy(update=changes))


def full_path(text: str, *, is_base: bool = False) -> str:
    """The absolute path; URIs, names of bases and of profiles are unchanged."""
    if "://" in text or text in _NO_PATHS:
        return text
    if is_base and not Path(text).expanduser().exists():
        return text
    return str(Path(text).expanduser().resolve())


def local_paths(spec: JobSpec) -> list[str]:
    """The local paths in a portable spec, which every node of the cluster must have."""
    values = [getattr(spec, name) for name in spec.PATHS]
    if isinstance(spec, CalibrateSpec):
        values.append(spec.base.name)
    elif not isinstance(spec, BenchmarkSpec):
        values += [spec.settings.router.profile, spec.settings.base.name]
    strings = [
        string for value in values for string in (value if isinstance(value, tuple) else [value])
    ]
    return [string for string in strings if string is not None and string.startswith("/")]


def file_mark(uri: str) -> str:
    """Fingerprint of an input file (size and mtime); "" if it cannot be accessed from here."""
    location = locate(uri)
    try:
        info = location.filesystem.get_file_info(location.path)
    except OSError:
        return ""
    return digest_json([info.size, info.mtime_ns])


def _portable_config(config: Config) -> Config:
    """Settings with full paths of base and profile, and the DeepSpeed configuration inlined."""
    parts: dict[str, dict[str, Any]] = {}
    if config.base.name is not None:
        parts["base"] = {"name": full_path(config.base.name, is_base=True)}
    if config.router.profile not in _NO_PATHS:
        parts["router"] = {"profile": full_path(config.router.profile)}
    if isinstance(config.cluster.deepspeed, str):
        from scen.cluster.sharding import read_deepspeed  # loads torch

        parts["cluster"] = {"deepspeed": read_deepspeed(config.cluster.deepspeed)}
    return config.model_copy(
        update={
            name: getattr(config, name).model_copy(update=values) for name, values in parts.items()
        }
    )


def _inputs(spec: JobSpec) -> tuple[str, ...]:
    """The input files; if one changes, the job is other work."""
    if isinstance(spec, StreamSpec):
        return (spec.edits,)
    if isinstance(spec, CalibrateSpec):
        return spec.edits
    return (spec.file,) if isinstance(spec, BenchmarkSpec) else ()


def _stream(spec: JobSpec) -> str:
    """The stream that no other job may run meanwhile; "" if there is none. Raises ConfigError for
    an invalid name."""
    if isinstance(spec, StreamSpec):
        from scen.pipeline.stream import check_name, name_stream  # loads torch

        return check_name(spec.stream or name_stream(spec.edits))
    return spec.stream if isinstance(spec, DrainSpec) else ""


def _code() -> tuple[str, ...]:
    """The folders of the packages that this process runs."""
    folders = []
    for name in _PACKAGES:
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        folders.append(str(Path(spec.origin).parent))
    return tuple(folders)
