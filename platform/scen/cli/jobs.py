"""Commands for jobs on a Ray cluster: `submit`, `jobs`, `stop`."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated

from cyclopts import Parameter

from scen.cli.options import EditOptions, Json, between, room
from scen.cli.output import line, make_table, out, pass_on, say, write_json

app, _, command = room("Cluster", 8)
Address = Annotated[
    str,
    Parameter(
        name="--address",
        metavar="URL",
        help="the cluster's dashboard, such as http://127.0.0.1:8265",
        group="Cluster",
    ),
]
_STATES = {
    "started": "started",
    "running": "is running already",
    "done": "is done already; --again runs it again",
}


@command
def submit(
    file: Annotated[str, Parameter(help="the edits")],
    /,
    *,
    options: EditOptions,
    address: Address,
    follow: Annotated[
        bool, Parameter(help="show the job's log until it ends", group="Cluster")
    ] = False,
    again: Annotated[
        bool, Parameter(help="run it even if the same job is done", group="Cluster")
    ] = False,
    installed_code: Annotated[
        bool, Parameter(help="do not upload code: the cluster has this release", group="Cluster")
    ] = False,
    python: Annotated[
        str,
        Parameter(
            metavar="NAME", help="the Python interpreter with Ray on the head node", group="Cluster"
        ),
    ] = "python",
    driver_cpus: Annotated[
        float,
        between(0),
        Parameter(
            metavar="N",
            help="CPU cores of the job's driver; 0 keeps it on the head (default: 0)",
            group="Cluster",
        ),
    ] = 0,
    print_spec: Annotated[
        bool,
        Parameter(help="print the job's spec as JSON instead of submitting it", group="Cluster"),
    ] = False,
    json: Json = False,
) -> None:
    r"""train, evaluate and commit the edits of a file on a Ray cluster

    The stream runs as a Ray job on the cluster, on workers configured by
    `cluster.*`; `scen edit` with the same options does the same work locally.
    FILE, the store and the base are read by the cluster's nodes: give URIs, or
    folders that every node has under the same path. Submitting the same file
    with the same options again finds the running or finished job; a changed file
    is another job. A job that failed or was stopped resumes when it is submitted
    again.

    One wave at a time is in flight per stream, and streams run concurrently: a
    stream that another job is running is refused. Even if a stream is started
    twice, each edit is committed once.

    The local code is uploaded to the cluster (Python files only), and so are a
    settings file and a DeepSpeed configuration (cluster.deepspeed). Dependencies
    must be installed there: pip install 'scen-platform[cluster]'.
    MLFLOW_TRACKING_URI is passed on.

    The cluster requires a token: RAY_AUTH_TOKEN_PATH names the file with it (or
    put it in ~/.ray/auth_token or RAY_AUTH_TOKEN); `ray get-auth-token
    --generate` creates one, which all nodes must have when they start. For a
    cluster without tokens, only on a trusted network, set
    RAY_AUTH_MODE=disabled.

    examples:
      scen submit s3://bucket/edits.parquet --store s3://bucket/store \
           --address http://head:8265 --follow
      scen submit edits.jsonl --store /shared/store \
           --address http://127.0.0.1:8265 \
           --set cluster.workers=8 --set cluster.gpus_per_worker=1
    """
    from scen.cluster.submit import local_paths, portable
    from scen.cluster.submit import submit as submit_spec

    spec = portable(options.spec(file))
    if print_spec:
        out.print(spec.to_json(), soft_wrap=True)
        return
    for path in local_paths(spec):
        say(f"{path} must exist on every node of the cluster")
    job = submit_spec(
        spec,
        address,
        again=again,
        python=python,
        sends_code=not installed_code,
        driver_cpus=driver_cpus,
    )
    if not json:
        line(f"job {job.submission_id} {_STATES[job.state]}")
        if job.state != "done":
            line(f"stop it with: scen stop {job.submission_id} --address {address}")
    status = job.state
    if follow and job.state != "done":
        status = job.follow(pass_on)
    if json:
        write_json({"job": job.submission_id, "state": job.state, "status": status})
    if status in ("FAILED", "STOPPED"):
        from scen.errors import ScenError

        raise ScenError(f"job {job.submission_id} ended as {status}; submit it again to continue")


@command
def jobs(*, address: Address, json: Json = False) -> None:
    """list the submitted jobs of a Ray cluster"""
    from scen.cluster.jobs import JobClient

    rows = JobClient(address).jobs()
    if json:
        write_json({"jobs": rows})
        return
    if not rows:
        out.print("no job was submitted to this cluster since it started")
        return
    cells = ((r["job"], r["status"], _moment(r["started_ms"]), _seconds(r)) for r in rows)
    out.print(make_table(("job", "status", "started (UTC)", "seconds"), cells))


@command
def stop(
    job: Annotated[str, Parameter(help="id of a job, as listed by `scen jobs`")],
    /,
    *,
    address: Address,
    json: Json = False,
) -> None:
    """stop a submitted job; committed waves stay, and it can be submitted again"""
    from scen.cluster.jobs import JobClient

    stopped = JobClient(address).stop(job)
    if json:
        write_json({"job": job, "stopped": stopped})
    elif stopped:
        line(f"job {job} is stopping; submit it again to continue")
    else:
        line(f"job {job} had ended already")


def _moment(ms: int | None) -> str:
    return "" if not ms else f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M:%S}"


def _seconds(job: Mapping[str, int | None]) -> str:
    began, ended = job["started_ms"], job["ended_ms"]
    return f"{(ended - began) / 1000:.0f}" if began and ended else ""
