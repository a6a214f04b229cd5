"""The words of `scen submit`, `scen jobs` and `scen stop`."""

import argparse

from scen.cli.options import RAW, json_option
from scen.cli.parser_edit import edit_options

_EPILOG = """\
The stream runs as a Ray job on the cluster, on workers that are set under `cluster.*`; `scen edit`
with the same words does the same work here. FILE, the store and the base are read by the cluster's
nodes: give URIs, or folders that every node has under the same path. Submitting the same file with
the same words again finds the job that is running or done; a file that has changed is another job.
A job that failed or was stopped goes on where it ended when it is submitted again.

One wave is in flight per stream, and streams run side by side: a stream that another job is running
is refused. Whatever starts twice all the same, each edit is committed once: the later run is told
that its edits are committed, and finds them done when it is run again.

The cluster runs this very code: it is sent along (Python files only). The libraries that it needs
must be installed there: pip install 'scen-platform[cluster]'. MLFLOW_TRACKING_URI is passed on. A
DeepSpeed configuration (cluster.deepspeed) is sent along as well, a settings file too.

A cluster is asked for by its token: RAY_AUTH_TOKEN_PATH names the file that holds it (or put it at
~/.ray/auth_token, or into RAY_AUTH_TOKEN); `ray get-auth-token --generate` makes one, which all
nodes must have when they are started. For a cluster without tokens, which only a network that you
trust may have, set RAY_AUTH_MODE=disabled.

examples:
  scen submit s3://bucket/edits.parquet --store s3://bucket/store \\
       --address http://head:8265 --follow
  scen submit edits.jsonl --store /shared/store --address http://127.0.0.1:8265 \\
       --set cluster.workers=8 --set cluster.gpus_per_worker=1
"""


def add_submit(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`scen submit`."""
    text = "train, measure and commit the edits of a file on a Ray cluster"
    submit = commands.add_parser(
        "submit", help=text, description=text, epilog=_EPILOG, formatter_class=RAW
    )
    edit_options(submit)
    group = submit.add_argument_group("cluster")
    address_option(group)
    add = group.add_argument
    add("--follow", action="store_true", help="show the job's log until it ends")
    add("--again", action="store_true", help="run it though the same is done")
    add("--installed-code", action="store_true", help="send no code: the cluster has this release")
    add("--python", default="python", metavar="NAME",
        help="the interpreter on the head that has Ray (default: python)")  # fmt: skip
    add("--driver-cpus", type=float, default=0, metavar="N",
        help="CPU cores of the job's driver (default: 0, which keeps it on the head)")  # fmt: skip
    json_option(submit)


def add_jobs(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`scen jobs`."""
    text = "the submitted streams of a Ray cluster"
    jobs = commands.add_parser("jobs", help=text, description=text)
    address_option(jobs)
    json_option(jobs)


def add_stop(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`scen stop`."""
    text = "end a submitted stream; what is committed stays, and it can be submitted again"
    stop = commands.add_parser("stop", help=text, description=text)
    stop.add_argument("job", metavar="JOB", help="as `scen jobs` shows it")
    address_option(stop)
    json_option(stop)


def address_option(parser: "argparse._ActionsContainer") -> None:
    """--address."""
    parser.add_argument(
        "--address",
        required=True,
        metavar="URL",
        help="the cluster's dashboard, such as http://127.0.0.1:8265",
    )
