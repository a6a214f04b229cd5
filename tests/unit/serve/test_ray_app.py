"""The Ray Serve application: its arguments, and the metrics it hands on to Ray."""

from pathlib import Path

import pydantic
import pytest
import yaml
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from ray.serve.schema import ServeDeploySchema

from scen.errors import ConfigError
from scen_serve.ray_app import AppArgs, Changes, build, check_proxy
from scen_serve.settings import EngineName, ServerArgs, VllmSettings

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


def test_a_replica_of_vllm_has_a_bundle_for_each_device_besides_its_own() -> None:
    vllm = {"tensor_parallel_size": 2, "options": {"block_size": 32}}
    built = build(AppArgs(store="x", engine="vllm", vllm=VllmSettings(**vllm), num_gpus=1))
    config = built._bound_deployment._replica_config
    assert config.placement_group_bundles == [{"CPU": 1}, *[{"CPU": 1, "GPU": 1}] * 2]
    assert config.placement_group_strategy == "PACK"
    assert config.resource_dict == {"CPU": 1, "GPU": 0}
    [args] = built._bound_deployment.init_args
    ray = {"block_size": 32, "distributed_executor_backend": "ray"}
    assert ServerArgs.model_validate(args).vllm == VllmSettings(**vllm | {"options": ray})


@pytest.mark.parametrize(
    ("engine", "ranks", "gpus", "resources"),
    [
        ("own", 1, 0, {"CPU": 1, "GPU": 0}),
        ("own", 1, 0.5, {"CPU": 1, "GPU": 0.5}),
        ("vllm", 1, 1, {"CPU": 1, "GPU": 1}),
        ("vllm", 2, 0, {"CPU": 2, "GPU": 0}),  # ranks on CPUs are child processes
    ],
)
def test_other_replicas_need_no_placement_group(
    engine: EngineName, ranks: int, gpus: float, resources: dict[str, float]
) -> None:
    vllm = VllmSettings(tensor_parallel_size=ranks)
    built = build(AppArgs(store="x", engine=engine, vllm=vllm, num_gpus=gpus))
    config = built._bound_deployment._replica_config
    assert (config.placement_group_bundles, config.resource_dict) == (None, resources)
    assert ServerArgs.model_validate(built._bound_deployment.init_args[0]).vllm == vllm


def test_an_open_address_wants_keys_or_a_word_that_it_is_meant() -> None:
    plain = AppArgs(store="x")
    for closed in ("127.0.0.1", "localhost", "::1", None):
        check_proxy(plain, closed)
    for host in ("0.0.0.0", "10.0.0.7"):
        with pytest.raises(ConfigError, match=r"args\.key_file for `serve deploy`"):
            check_proxy(plain, host)
        check_proxy(AppArgs(store="x", key_file="keys.yaml"), host)
        check_proxy(AppArgs(store="x", allow_open=True), host)


def test_growth_is_told_once_and_gauges_as_they_are() -> None:
    registry = CollectorRegistry()
    tokens = Counter("tokens", "t", ["kind"], registry=registry)
    rows = Gauge("rows", "r", registry=registry)
    seconds = Histogram("seconds", "s", buckets=(1, 2), registry=registry)
    changes = Changes(registry)
    tokens.labels("prompt").inc(3)
    rows.set(5)
    seconds.observe(1.5)
    assert {(c.name, c.labels): c.value for c in changes.take()} == {
        ("rows", ()): 5,
        ("seconds_bucket", (("le", "+Inf"),)): 1,
        ("seconds_bucket", (("le", "2.0"),)): 1,
        ("seconds_count", ()): 1,
        ("seconds_sum", ()): 1.5,
        ("tokens", (("kind", "prompt"),)): 3,
    }
    tokens.labels("prompt").inc(2)
    assert {c.name: (c.value, c.is_gauge) for c in changes.take()} == {
        "rows": (5, True),
        "tokens": (2, False),
    }


def test_what_a_version_did_is_told_again_until_it_is_dropped() -> None:
    registry = CollectorRegistry()
    tokens = Counter("tokens", "t", ["version"], registry=registry)
    score = Histogram("score", "s", ["version"], buckets=(1,), registry=registry)
    changes = Changes(registry)
    tokens.labels("2").inc(3)
    score.labels("2").observe(0.5)
    for _ in range(2):
        told = changes.take()
        assert {c.name: c.value for c in told} == {
            "tokens_total": 3,
            "score_bucket_total": 1,
            "score_count_total": 1,
            "score_sum_total": 0.5,
        }
        assert all(c.is_gauge for c in told)
    tokens.remove_by_labels({"version": "2"})
    score.remove_by_labels({"version": "2"})
    assert changes.take() == []
