"""What the operator refuses beyond fields and types, and what a cluster must have to be safe."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from ray.serve.schema import ServeDeploySchema

from scen.config import Config
from scen.pipeline.job_spec import StreamSpec, parse_spec
from scen_serve.api.access import is_loopback, read_keys
from scen_serve.api.errors import PROXY_CALLBACK
from scen_serve.ray_app import AppArgs, build
from unit.infra.manifests import ROOT, Command, commands, in_repository, of_kind, pods

LIMIT = 47  # letters of a name, which the operator makes longer


def cluster_specs() -> dict[str, dict[str, Any]]:
    """The specification of each Ray cluster, by the name of its owner."""
    found = {name: it["spec"] for name, it in of_kind("RayCluster").items()}
    services = of_kind("RayService")
    return found | {name: it["spec"]["rayClusterConfig"] for name, it in services.items()}


def refusals(spec: dict[str, Any]) -> list[str]:
    """What the operator would refuse of a cluster, by its rules of version 1.7."""
    found = []
    if spec.get("authOptions") and "rayVersion" not in spec:
        found.append("authOptions: they want rayVersion")
    for pod in pods(spec):
        if pod.get("restartPolicy", "Never") != "Never":
            found.append("restartPolicy: not with the autoscaler")
    for group in spec["workerGroupSpecs"]:
        low, now, high = group["minReplicas"], group["replicas"], group["maxReplicas"]
        if not 0 <= low <= now <= high:
            found.append(f"replicas: {now} is not between {low} and {high}")
    return found


@pytest.mark.parametrize("name", cluster_specs())
def test_the_operator_would_take_a_cluster(name: str) -> None:
    assert refusals(cluster_specs()[name]) == []
    assert re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", name)
    assert len(name) <= LIMIT


def test_what_it_would_refuse_is_found() -> None:
    spec = copy.deepcopy(cluster_specs()["scen"])
    del spec["rayVersion"]
    spec["workerGroupSpecs"][0]["replicas"] = 9
    next(pods(spec))["restartPolicy"] = "Always"
    assert len(refusals(spec)) == 3


@pytest.mark.parametrize("name", cluster_specs())
def test_a_cluster_is_ours_closed_and_ends_in_order(name: str) -> None:
    spec = cluster_specs()[name]
    assert spec["rayVersion"] == ray.__version__
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    templates = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    for template in (group["template"] for group in templates):
        assert template["metadata"]["labels"]["app.kubernetes.io/part-of"] == "scen"
        pod = template["spec"]
        assert pod["terminationGracePeriodSeconds"] >= 60
        [box] = pod["containers"]
        assert "ray stop" in " ".join(box["lifecycle"]["preStop"]["exec"]["command"])
        assert {"name": "metrics", "containerPort": 8080} in box["ports"]


def test_no_pod_runs_as_root_or_may_become_it() -> None:
    found = [
        pod
        for kind in ("RayCluster", "RayJob", "RayService", "Deployment", "CronJob")
        for it in of_kind(kind).values()
        for pod in pods(it)
    ]
    assert len(found) > 10
    for pod in found:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 1000
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for box in pod["containers"]:
            assert box["securityContext"]["allowPrivilegeEscalation"] is False
            assert box["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert "memory" in box["resources"]["limits"]


def test_what_a_pod_mounts_and_reads_is_there() -> None:
    names = {kind: set(of_kind(kind)) for kind in ("ConfigMap", "Secret")}
    for kind in ("RayCluster", "RayService", "Deployment", "CronJob"):
        for pod in (pod for it in of_kind(kind).values() for pod in pods(it)):
            volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
            for box in pod["containers"]:
                mounts = {mount["name"] for mount in box.get("volumeMounts", [])}
                assert mounts <= set(volumes)
                for source in box["envFrom"]:
                    if "configMapRef" in source:
                        assert source["configMapRef"]["name"] in names["ConfigMap"]
                    else:
                        assert source["secretRef"]["name"] in names["Secret"]
            secrets = {v["secret"]["secretName"] for v in volumes.values() if "secret" in v}
            assert secrets <= names["Secret"]


@pytest.mark.parametrize("name", of_kind("RayJob"))
def test_a_job_has_one_name_and_a_cluster(name: str) -> None:
    spec = of_kind("RayJob")[name]["spec"]
    assert spec["clusterSelector"]["ray.io/cluster"] in of_kind("RayCluster")
    assert spec["jobId"] == name  # the same for each submission
    assert name.startswith("scen-")  # or `scen jobs` would not list it
    assert len(name) <= LIMIT
    assert spec["entrypointNumCpus"] >= 1  # away from the head
    assert spec["activeDeadlineSeconds"] > 0
    labels = spec["submitterPodTemplate"]["metadata"]["labels"]
    assert labels["app.kubernetes.io/part-of"] == "scen"


def test_the_gpu_cluster_has_what_its_job_asks_for() -> None:
    [command] = [x for x in commands() if x.where == "RayJob scen-llama-1"]
    cluster = job_config(command).cluster
    assert (cluster.strategy, cluster.workers) == ("zero3", 8)
    [group] = of_kind("RayCluster")["scen-gpu"]["spec"]["workerGroupSpecs"]
    [box] = group["template"]["spec"]["containers"]
    driver = of_kind("RayJob")["scen-llama-1"]["spec"]["entrypointNumCpus"]
    for amounts in (box["resources"]["requests"], box["resources"]["limits"]):
        gpus, cpus = int(amounts["nvidia.com/gpu"]), int(amounts["cpu"])
        assert gpus * group["replicas"] == cluster.workers * cluster.gpus_per_worker
        assert cpus * group["replicas"] >= cluster.workers * cluster.cpus_per_worker + driver


def test_the_cpu_cluster_has_room_for_its_job() -> None:
    [command] = [x for x in commands() if x.where == "RayJob scen-corrections-1"]
    [group] = of_kind("RayCluster")["scen"]["spec"]["workerGroupSpecs"]
    [box] = group["template"]["spec"]["containers"]
    room = int(box["resources"]["limits"]["cpu"]) * group["maxReplicas"]
    assert room >= workers(command) + 1


def workers(command: Command) -> float:
    """The cores that the workers of a job ask for."""
    cluster = job_config(command).cluster
    return cluster.workers * cluster.cpus_per_worker


def job_config(command: Command) -> Config:
    """The settings of a job, its settings file as one of the repository."""
    spec = parse_spec(command.words[-1])
    assert isinstance(spec, StreamSpec)
    file = spec.settings_file and in_repository(spec.settings_file)
    return spec.model_copy(update={"settings_file": file}).config()


def serve_config(name: str = "edited") -> dict[str, Any]:
    """What a RayService deploys."""
    found: dict[str, Any] = yaml.safe_load(of_kind("RayService")[name]["spec"]["serveConfigV2"])
    return found


def test_the_service_deploys_what_serve_config_does() -> None:
    """But for what its comment says; what one of them leaves out is the default."""
    mine, theirs = serve_config(), yaml.safe_load((ROOT / "serve/config.yaml").read_text())
    ServeDeploySchema.model_validate(mine)
    [args], [their_args] = (
        [AppArgs.model_validate(app.pop("args")) for app in config["applications"]]
        for config in (mine, theirs)
    )
    build(args)
    assert args.key_file is not None
    assert args.model_copy(update={"key_file": None}) == their_args
    assert mine.pop("proxy_location") == "EveryNode"
    assert theirs.pop("proxy_location") == "HeadOnly"
    assert not is_loopback(mine["http_options"].pop("host"))
    assert is_loopback(theirs["http_options"].pop("host"))
    assert mine == theirs


def test_the_service_of_vllm_is_the_same_with_another_engine() -> None:
    theirs, mine = serve_config(), serve_config("edited-vllm")
    [args], [their_args] = (
        [AppArgs.model_validate(app.pop("args")) for app in config["applications"]]
        for config in (mine, theirs)
    )
    assert mine == theirs
    ServeDeploySchema.model_validate(mine)
    names = ("engine", "vllm", "num_gpus", "max_rows", "max_replicas")
    own = {name: getattr(their_args, name) for name in names}
    assert args.model_copy(update=own) == their_args
    assert args.engine == "vllm"


def test_a_pod_of_vllm_has_room_for_the_bundles_of_a_replica() -> None:
    [app] = serve_config("edited-vllm")["applications"]
    args = AppArgs.model_validate(app["args"])
    bundles = args.resources()["placement_group_bundles"]
    build(args)
    [group] = of_kind("RayService")["edited-vllm"]["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    [box] = group["template"]["spec"]["containers"]
    assert sum(bundle.get("GPU", 0) for bundle in bundles) == int(
        box["resources"]["limits"]["nvidia.com/gpu"]
    )
    assert sum(bundle["CPU"] for bundle in bundles) == int(group["rayStartParams"]["num-cpus"])
    assert args.max_replicas == group["maxReplicas"]


@pytest.mark.parametrize("service", of_kind("RayService"))
def test_the_proxies_of_a_service_speak_as_the_api_does(service: str) -> None:
    name = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
    for pod in pods(of_kind("RayService")[service]):
        [value] = [one["value"] for one in pod["containers"][0]["env"] if one["name"] == name]
        assert value == PROXY_CALLBACK


@pytest.mark.parametrize("service", of_kind("RayService"))
def test_a_serving_pod_has_the_keys_the_port_and_time_to_end(service: str) -> None:
    spec, config = of_kind("RayService")[service]["spec"], serve_config(service)
    [app] = config["applications"]
    args = AppArgs.model_validate(app["args"])
    [group] = spec["rayClusterConfig"]["workerGroupSpecs"]
    pod = group["template"]["spec"]
    [box] = pod["containers"]
    assert {"name": "serve", "containerPort": config["http_options"]["port"]} in box["ports"]
    assert spec["rayClusterDeletionDelaySeconds"] > args.timeout_s
    cpus = float(group["rayStartParams"]["num-cpus"]) * group["maxReplicas"]
    options = args.resources()["ray_actor_options"]
    assert cpus >= args.max_replicas * options["num_cpus"]
    assert args.key_file is not None
    folder, name = Path(args.key_file).parent, Path(args.key_file).name
    [mount] = [x for x in box["volumeMounts"] if x["mountPath"] == str(folder)]
    [volume] = [x for x in pod["volumes"] if x["name"] == mount["name"]]
    assert name in of_kind("Secret")[volume["secret"]["secretName"]]["stringData"]


def test_the_example_of_keys_can_be_read(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(of_kind("Secret")["scen-api-keys"]["stringData"]["api-keys.yaml"])
    assert {scope for key in read_keys(str(file)) for scope in key.scopes} == {
        "read",
        "edit",
        "admin",
    }


@pytest.mark.parametrize("service", of_kind("RayService"))
def test_the_disruption_budget_and_the_monitor_find_pods(service: str) -> None:
    [group] = of_kind("RayService")[service]["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    labels = group["template"]["metadata"]["labels"]
    budget = of_kind("PodDisruptionBudget")[service]["spec"]["selector"]["matchLabels"]
    assert budget.items() <= labels.items()
    monitor = of_kind("PodMonitor")["scen"]["spec"]
    ours = labels | {"ray.io/is-ray-node": "yes"}  # the operator's own
    assert monitor["selector"]["matchLabels"].items() <= ours.items()
    assert [endpoint["port"] for endpoint in monitor["podMetricsEndpoints"]] == ["metrics"]
