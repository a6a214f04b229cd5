"""Loads and asks logged models as anybody would, and prints the results as JSON.

    python fresh_model.py '["NAME", ["prompt", ...], MAX_NEW_TOKENS, ["STORE", "ITS NEW PLACE"]]'

MLFLOW_TRACKING_URI says where MLflow is. The store is moved on the way.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
from pandas import DataFrame  # type: ignore[import-untyped]

HERE = {"device": "cpu"}


def rows(table: DataFrame) -> list[dict[str, Any]]:
    """The rows of an answer."""
    assert list(table.columns) == ["answer", "edit_id", "score", "version"]
    records: list[dict[str, Any]] = table.to_dict(orient="records")
    return records


def refusal(call: Callable[[], object]) -> str:
    """The error that a call ends with."""
    try:
        call()
    except Exception as err:
        return f"{type(err).__name__}: {err}"
    return "none"


def main(name: str, prompts: list[str], length: int, moved: tuple[str, str]) -> dict[str, Any]:
    """What each way to load and ask comes to."""
    champion = f"models:/{name}@champion"
    params = {"max_new_tokens": length}
    model = mlflow.pyfunc.load_model(champion, model_config=HERE)
    table = DataFrame({"prompt": prompts, "target": ["?"] * len(prompts)})
    results = {
        "champion": rows(model.predict(prompts, params=params)),
        "table": rows(model.predict(table, params=params)),
        "short": rows(model.predict(prompts[:1], params={"max_new_tokens": 1})),
        "example": rows(model.predict(model.input_example)),
        "wrong": refusal(lambda: model.predict(table[["target", "prompt"]])),
        "none": refusal(lambda: model.predict(prompts, params={"max_new_tokens": 0})),
    }
    previous = mlflow.pyfunc.load_model(f"models:/{name}@previous", model_config=HERE)
    results["previous"] = rows(previous.predict(prompts, params=params))
    Path(moved[0]).rename(moved[1])
    results["gone"] = refusal(lambda: mlflow.pyfunc.load_model(champion))
    model = mlflow.pyfunc.load_model(champion, model_config={**HERE, "store": moved[1]})
    results["moved"] = rows(model.predict(prompts, params=params))
    return results


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(*json.loads(sys.argv[1])), allow_nan=False) + "\n")
