"""The application as files and arguments describe it; tests/cluster runs it."""

from pathlib import Path

import pydantic
import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from scen.errors import ConfigError
from scen_serve.ray_app import AppArgs, build, check_proxy

FILE = Path(__file__).parents[3] / "serve/config.yaml"


def test_the_file_for_serve_deploy_is_sound() -> None:
    [app] = ServeDeploySchema.model_validate(yaml.safe_load(FILE.read_text())).applications
    assert app.import_path == "scen_serve.ray_app:build"
    built = build(AppArgs.model_validate(app.args))
    assert [deployment.name for deployment in app.deployments] == [built._bound_deployment.name]
    scaling = built._bound_deployment._deployment_config.autoscaling_config
    assert scaling is not None
    assert (scaling.min_replicas, scaling.max_replicas) == (1, 4)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(pydantic.ValidationError, match="max_row\n"):
        AppArgs.model_validate({"store": "x", "max_row": 3})
    with pytest.raises(ConfigError, match="max_replicas: 1 is less than min_replicas 2"):
        build(AppArgs(store="x", min_replicas=2))


def test_an_open_address_wants_keys_or_a_word_that_it_is_meant() -> None:
    plain = AppArgs(store="x")
    for closed in ("127.0.0.1", "localhost", "::1", None):
        check_proxy(plain, closed)
    for host in ("0.0.0.0", "10.0.0.7"):
        with pytest.raises(ConfigError, match=r"args\.key_file for `serve deploy`"):
            check_proxy(plain, host)
        check_proxy(AppArgs(store="x", key_file="keys.yaml"), host)
        check_proxy(AppArgs(store="x", allow_open=True), host)
