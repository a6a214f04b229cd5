"""Ray jobs: work that runs on a cluster without a connected client."""

import asyncio
import logging
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from scen.cluster.session import connecting, prepare_environment
from scen.errors import ConflictError, NotFoundError, ScenError
from scen.records import digest_json

_OPEN = ("PENDING", "RUNNING")


@dataclass(frozen=True)
class Submission:
    """A job for `python -m scen_jobs`: its spec as JSON, and a `label` for its name.

    No other job may run the same `stream` of the same `store` meanwhile. `mark` is a fingerprint
    of the input files. `python` is the head's interpreter, `packages` are folders of Python code
    to upload, `environment` holds environment variables of the job.
    """

    spec: str
    label: str
    stream: str = ""
    store: str = ""
    mark: str = ""
    python: str = "python"
    packages: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def submission_id(self) -> str:
        """Derived from the spec and the input files, so that a second submission is recognised."""
        name = re.sub(r"[^a-z0-9-]", "-", self.label)[:40]
        return f"scen-{name}-{digest_json([self.spec, self.mark])[:12]}"

    @property
    def entrypoint(self) -> str:
        """The shell command of the job. The spec is one quoted word, because Ray expands
        environment variables in the command."""
        return shlex.join((self.python, "-m", "scen_jobs", "--spec", self.spec))


@dataclass(frozen=True)
class Submitted:
    """A job on a cluster. `state` is its state at submission: started, running or done."""

    submission_id: str
    state: str
    client: "JobClient" = field(repr=False, compare=False)

    def follow(self, say: Callable[[str], None]) -> str:
        """Pass the log to `say` until the job ends; returns its final status, such as SUCCEEDED."""
        return self.client.follow(self.submission_id, say)

    def stop(self) -> bool:
        """Stop the job; False if it had already ended."""
        return self.client.stop(self.submission_id)


class JobClient:
    """The jobs of a cluster, by the address of its dashboard (http://host:8265)."""

    def __init__(self, address: str) -> None:
        """Raises ConfigError if no dashboard answers at the address, or it refuses the token."""
        prepare_environment()
        from ray.job_submission import JobSubmissionClient

        logging.getLogger("ray").setLevel(logging.WARNING)  # its import sets another level
        with connecting(
            address,
            f"no Ray dashboard answers at {address}; it looks like http://127.0.0.1:8265",
        ):
            self._client: Any = JobSubmissionClient(address)

    def submit(self, job: Submission, cpus: float = 0, *, again: bool = False) -> Submitted:
        """Start a job, unless the same job is running or (without `again`) done. A job that failed
        or was stopped is started again under the next number. `cpus` are CPU cores of the driver.

        Raises ConflictError if a job with another spec is running the stream: nothing would be
        committed twice, but the work of one of them would be wasted.
        """
        for attempt in range(1, 1000):
            name = job.submission_id + (f"-{attempt}" if attempt > 1 else "")
            status = self._status(name)
            if status in _OPEN:
                return Submitted(name, "running", self)
            if status == "SUCCEEDED" and not again:
                return Submitted(name, "done", self)
            if status is None:
                self._require_alone(job)
                return self._start(name, job, cpus)
        raise ScenError(f"job {job.submission_id}: failed too often")

    def follow(self, submission_id: str, say: Callable[[str], None]) -> str:
        """Pass the job's log to `say` until it ends; returns its final status."""

        async def tail() -> None:
            async for text in self._client.tail_job_logs(submission_id):
                say(text)

        self._require(submission_id)
        asyncio.run(tail())
        return str(self._client.get_job_status(submission_id))

    def jobs(self) -> list[dict[str, Any]]:
        """The platform's jobs, newest first: id, status, message, times in ms since 1970."""
        submitted = [job for job in self._client.list_jobs() if job.submission_id]
        own = [job for job in submitted if job.submission_id.startswith("scen-")]
        own.sort(key=lambda job: job.start_time or 0, reverse=True)
        return [
            {
                "job": job.submission_id,
                "status": str(job.status),
                "started_ms": job.start_time,
                "ended_ms": job.end_time,
                "message": job.message,
            }
            for job in own
        ]

    def stop(self, submission_id: str) -> bool:
        """Stop a job; the next submission continues its current wave. False if it had already
        ended. Raises NotFoundError."""
        self._require(submission_id)
        return bool(self._client.stop_job(submission_id))

    def _start(self, name: str, job: Submission, cpus: float) -> Submitted:
        needs: dict[str, Any] = {"env_vars": dict(job.environment)}
        if job.packages:
            needs["py_modules"] = list(job.packages)
        try:
            self._client.submit_job(
                entrypoint=job.entrypoint,
                submission_id=name,
                runtime_env=needs,
                metadata={"stream": job.stream, "store": job.store},
                entrypoint_num_cpus=cpus or None,
            )
        except (RuntimeError, ValueError) as err:
            if "already exists" in str(err):  # another process submitted it at the same time
                return Submitted(name, "running", self)
            raise ScenError(f"job {name}: the cluster refused it ({err})") from err
        return Submitted(name, "started", self)

    def _require_alone(self, job: Submission) -> None:
        if not job.stream:
            return
        own_name = re.compile(rf"{job.submission_id}(-\d+)?")
        for other in self._client.list_jobs():
            name, metadata = other.submission_id or "", other.metadata or {}
            is_same_stream = (metadata.get("stream"), metadata.get("store")) == (
                job.stream,
                job.store,
            )
            if is_same_stream and str(other.status) in _OPEN and not own_name.fullmatch(name):
                raise ConflictError(
                    f"--stream: {job.stream} of {job.store} is being run by job {name}, with other "
                    f"options or another state of the file; wait for it (`scen jobs`), stop it "
                    f"(`scen stop {name}`), or give these edits another --stream"
                )

    def _status(self, submission_id: str) -> str | None:
        known = {job.submission_id: str(job.status) for job in self._client.list_jobs()}
        return known.get(submission_id)

    def _require(self, submission_id: str) -> None:
        if self._status(submission_id) is None:
            raise NotFoundError(f"job: there is no {submission_id}; `scen jobs` lists them")
