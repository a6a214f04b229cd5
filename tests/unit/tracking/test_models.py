"""Versions of a store in MLflow's model registry."""

import json
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient

from scen import __version__
from scen.errors import ConfigError, ScenError
from scen.tracking.models import ModelRecord, ModelRegistry
from scen.tracking.wave_runs import MlflowTracker
from unit.tracking.conftest import RecordOf

CODE = Path(str(files("scen.tracking"))) / "logged_model.py"
POINTER = {"store": "/data/news", "version": 3, "base": {"name": "tiny", "dtype": "float32"}}


def tags_of(store: str, store_id: str = "0123456789abcdef") -> dict[str, str]:
    return {"scen.store": store, "scen.store_id": store_id, "scen.base": "tiny"}


@pytest.fixture
def record() -> ModelRecord:
    """Of version 3 of a ledger."""
    tags = {"scen.edits": "7"}
    places = {"store": "/data/news", "base": "tiny", "device": "auto"}
    return ModelRecord(3, None, "version-0003", "what it is", tags, CODE, POINTER, places)


@pytest.fixture
def models(tracking_uri: str, request: pytest.FixtureRequest) -> ModelRegistry:
    """The model of a store that no other test has."""
    name = request.node.name[:60]
    return ModelRegistry(tracking_uri, tags_of(f"/data/{name}", f"{abs(hash(name)):016x}"))


def artifacts(client: MlflowClient, models: ModelRegistry, number: int) -> Path:
    """The folder that MLflow loads a version from."""
    return Path(client.get_model_version_download_uri(models.name, str(number)))


def test_a_version_says_what_it_is(
    client: MlflowClient, models: ModelRegistry, record: ModelRecord
) -> None:
    made = models.add(record)
    assert (made.version, made.wave, models.versions()) == (3, None, [made])
    version = client.get_model_version(models.name, str(made.number))
    assert version.tags == {"scen.version": "3", "scen.edits": "7"}
    assert (version.status, version.description, version.run_id) == ("READY", "what it is", None)
    [experiment] = client.search_experiments(filter_string=f"name = 'models/{models.name}'")
    [model] = client.search_logged_models([experiment.experiment_id])
    assert (model.status, model.name) == ("READY", "version-0003")
    assert model.params == {"name": "tiny", "dtype": "float32"}
    link = {"name": models.name, "version": str(made.number)}
    assert json.loads(model.tags["mlflow.modelVersions"]) == [link]


def test_a_model_is_code_and_a_pointer_and_nothing_is_pickled(
    client: MlflowClient, models: ModelRegistry, record: ModelRecord
) -> None:
    folder = artifacts(client, models, models.add(record).number)
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files == {
        "MLmodel", "logged_model.py", "artifacts/snapshot.json", "requirements.txt", "conda.yaml",
        "python_env.yaml", "input_example.json", "serving_input_example.json",
    }  # fmt: skip
    assert (folder / "logged_model.py").read_text() == CODE.read_text()
    assert json.loads((folder / "artifacts" / "snapshot.json").read_text()) == POINTER
    assert f"scen-platform=={__version__}" in (folder / "requirements.txt").read_text()
    mlmodel = yaml.safe_load((folder / "MLmodel").read_text())
    flavor = mlmodel["flavors"]["python_function"]
    assert flavor["loader_module"] == "mlflow.pyfunc.loaders.code_model"
    assert flavor["config"] == record.places
    columns = [column["name"] for column in json.loads(mlmodel["signature"]["outputs"])]
    assert columns == ["answer", "edit_id", "score", "version"]


def test_the_run_of_its_wave_shows_it(
    client: MlflowClient,
    tracker: MlflowTracker,
    models: ModelRegistry,
    record: ModelRecord,
    record_of: RecordOf,
) -> None:
    wave = record_of()
    run_id = tracker.track_wave(wave)
    made = models.add(replace(record, run=(wave.stream, wave.wave_key)))
    assert client.get_model_version(models.name, str(made.number)).run_id == run_id
    outputs = client.get_run(run_id).outputs
    assert outputs is not None
    [output] = outputs.model_outputs
    model = client.get_logged_model(output.model_id)
    assert model.source_run_id == run_id
    assert model.experiment_id == client.get_run(run_id).info.experiment_id
    unknown = models.add(replace(record, run=(wave.stream, "other")))
    assert client.get_model_version(models.name, str(unknown.number)).run_id is None


def test_of_two_that_are_the_same_the_older_counts(
    client: MlflowClient, models: ModelRegistry, record: ModelRecord
) -> None:
    first = models.add(record)
    held = models.add(replace(record, wave="news-1"))
    models.add(record)
    folder = artifacts(client, models, first.number)
    client.create_model_version(models.name, str(folder), tags={"mine": "yes"})
    assert models.versions() == [first, held]
    client.delete_model_version(models.name, str(first.number))
    assert [one.number for one in models.versions()] == [held.number, held.number + 1]


def test_aliases_move_and_go(models: ModelRegistry, record: ModelRecord) -> None:
    first, second = models.add(record), models.add(replace(record, version=4))
    models.set_alias("champion", first.number)
    models.set_alias("champion", second.number)
    models.set_alias("previous", first.number)
    assert models.aliases() == {"champion": second.number, "previous": first.number}
    models.set_alias("previous", None)
    assert models.aliases() == {"champion": second.number}
    with pytest.raises(ScenError, match="`scen register` tries again"):
        models.set_alias("champion", 99)


def test_a_store_gives_its_name_to_its_model(tracking_uri: str, client: MlflowClient) -> None:
    mine = ModelRegistry(tracking_uri, tags_of("s3://bucket/my store/", "a" * 16))
    assert mine.name == "scen-my-store"
    assert client.get_registered_model(mine.name).tags == tags_of("s3://bucket/my store/", "a" * 16)
    theirs = tags_of("/other/my-store", "b" * 16)
    for _ in range(2):
        assert ModelRegistry(tracking_uri, theirs).name == "scen-my-store-bbbbbbbb"
    assert ModelRegistry(tracking_uri, tags_of("/", "c" * 16)).name == "scen-store"
    moved = tags_of("s3://new/my-store", "a" * 16)
    assert ModelRegistry(tracking_uri, moved).name == "scen-my-store"
    assert client.get_registered_model(mine.name).tags == moved


def test_the_model_of_somebody_else_is_left_alone(
    tracking_uri: str, client: MlflowClient, record: ModelRecord
) -> None:
    theirs = ModelRegistry(tracking_uri, tags_of("/data/theirs", "d" * 16), "Their model 1.0")
    mine = tags_of("/data/mine", "e" * 16)
    with pytest.raises(ConfigError, match=r"'Their model 1\.0' is a model of /data/theirs"):
        ModelRegistry(tracking_uri, mine, "Their model 1.0")
    client.create_registered_model("empty")
    assert ModelRegistry(tracking_uri, mine, "empty").name == "empty"
    source = artifacts(client, theirs, theirs.add(record).number)
    client.create_registered_model("filled")
    client.create_model_version("filled", str(source))
    with pytest.raises(ConfigError, match="'filled' is a model of somebody else"):
        ModelRegistry(tracking_uri, mine, "filled")
    assert client.get_registered_model("filled").tags == {}


@pytest.mark.parametrize("name", ["", "a/b", "a:b", "it's", "-a", "a" * 129])
def test_a_name_that_cannot_be_one(tracking_uri: str, name: str) -> None:
    with pytest.raises(ConfigError, match="--name"):
        ModelRegistry(tracking_uri, tags_of("/data/news"), name)
