"""The words of `scen register`."""

import argparse

from scen.cli.options import RAW, json_option, store_option

_EPILOG = """\
The registered model has a version for the newest version of the ledger, made now if there is none
yet, and three aliases:
  champion    the newest version of the ledger
  previous    the newest registered one before it
  candidate   the wave that the gate holds since last (`scen candidates`), if any: as if promoted
The ledger is only read: after `scen revoke` or `scen rollback` the next run moves the aliases, and
what was changed by hand in MLflow is put right. `scen gc` keeps what the aliased versions need.
`scen edit` does the same at its end, for all versions that it committed.

A version is a pointer, a few kB: MLflow keeps the place of the store, the version and a digest of
it, while experts stay in the store. It is loaded by any process that has scen-platform installed
and reads the store; the base, the version and its bundles are checked:

  mlflow.set_tracking_uri("http://mlflow:5000")
  model = mlflow.pyfunc.load_model("models:/scen-my-store@champion")
  model.predict(["Who founded X?"], params={"max_new_tokens": 32})

That gives a table of answer, edit_id, score and version. For a store, or a base in a folder, that
has moved: load_model(..., model_config={"store": "s3://bucket/my-store", "base": "/models/mine"}).

examples:
  scen register --store ./my-store
  scen register --store ./my-store --tracking-uri http://mlflow:5000 --name news-model
  scen register --store ./my-store --version 3 --version 5    older versions too
"""


def add_register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`scen register`."""
    text = "the versions of a store in MLflow's model registry, with aliases"
    parser = commands.add_parser(
        "register", help=text, description=text, epilog=_EPILOG, formatter_class=RAW
    )
    store_option(parser)
    add = parser.add_argument
    add("--tracking-uri", metavar="URI", help="where MLflow is (default: MLFLOW_TRACKING_URI, else "
        "a sqlite file in the store)")  # fmt: skip
    add("--name", metavar="NAME", help="of the registered model (default: scen-, and the last part "
        "of the store's URI)")  # fmt: skip
    add("--version", type=int, action="append", default=[], metavar="V", dest="versions",
        help="register this version of the ledger too; may be repeated")  # fmt: skip
    json_option(parser)
