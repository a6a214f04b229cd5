"""Manifests have only fields that exist, of the right type. An API server drops others unsaid."""

import copy
import os
from typing import Any

import pytest

from unit.infra.crds import read_definitions, strays
from unit.infra.manifests import MANIFESTS, documents, objects, of_kind
from unit.infra.shapes import complaints, faults, shapes

CRDS = os.environ.get("KUBERAY_CRDS", "")
needs_crds = pytest.mark.skipif(not CRDS, reason="KUBERAY_CRDS names no folder of definitions")
RAY_KINDS = ("RayCluster", "RayJob", "RayService")
WORKER = "spec.workerGroupSpecs.0"
Fault = tuple[str, str, Any, str]  # kind, place, value, what is said
RAY_FAULTS: list[Fault] = [
    ("RayCluster", "spec.gcsFaultTolerance", {}, "spec: Additional properties"),
    ("RayCluster", "spec.authOptions.mode", "password", "spec.authOptions.mode: 'password'"),
    ("RayCluster", "spec.headGroupSpec", None, "spec: 'headGroupSpec' is a required property"),
    ("RayCluster", "spec.headGroupSpec.rayStartParams.num-cpus", 0, "num-cpus: 0 is not of type"),
    ("RayCluster", f"{WORKER}.replicas", "1", f"{WORKER}.replicas: '1' is not of type"),
    ("RayCluster", f"{WORKER}.template.spec.contaners", [], "template.spec: Additional properties"),
    ("RayJob", "spec.entryPoint", "python", "spec: Additional properties"),
    ("RayJob", "spec.entrypointNumCpus", "1", "spec.entrypointNumCpus: '1' is not of type"),
    ("RayService", "spec.serveConfig", "", "spec: Additional properties"),
    ("RayService", "spec.rayClusterConfig", None, "'rayClusterConfig' is a required property"),
]
OTHER_FAULTS: list[Fault] = [
    ("CronJob", "spec.schedule", None, "spec: 'schedule' is a required property"),
    ("Deployment", "spec.template.spec.containers.0.imagePullpolicy", "Always", "Additional"),
    ("NetworkPolicy", "spec.ingres", [], "spec: Additional properties"),
    ("PodMonitor", "spec.podMetricsEndpoints.0.port", 8080, "port: 8080 is not of type"),
]


def with_fault(kind: str, place: str, value: Any) -> dict[str, Any]:
    """The first manifest of a kind, with one value set, or taken away where it is None."""
    manifest = copy.deepcopy(next(iter(of_kind(kind).values())))
    *way, last = place.split(".")
    node: Any = manifest
    for step in way:
        node = node[int(step) if step.isdecimal() else step]
    if value is None:
        del node[last]
    else:
        node[last] = value
    return manifest


def test_every_manifest_is_sound() -> None:
    found = objects()
    assert len(found) > 10
    assert {kind for kind in RAY_KINDS if not of_kind(kind)} == set()
    wrong = [f"{name}: {fault}" for name, it in found for fault in faults(shapes()[it["kind"]], it)]
    assert wrong == []


@pytest.mark.parametrize(("kind", "place", "value", "told"), [*RAY_FAULTS, *OTHER_FAULTS])
def test_a_fault_is_found(kind: str, place: str, value: Any, told: str) -> None:
    [fault] = faults(shapes()[kind], with_fault(kind, place, value))
    assert told in fault


@needs_crds
@pytest.mark.parametrize("kind", RAY_KINDS)
def test_the_operator_s_definitions_take_every_manifest(kind: str) -> None:
    schema = read_definitions(CRDS)[kind]
    for manifest in of_kind(kind).values():
        assert list(complaints(schema, manifest)) == []


@needs_crds
@pytest.mark.parametrize(("kind", "place", "value", "told"), RAY_FAULTS)
def test_the_operator_s_definitions_find_a_fault(
    kind: str, place: str, value: Any, told: str
) -> None:
    found = list(complaints(read_definitions(CRDS)[kind], with_fault(kind, place, value)))
    assert any(told in fault for fault in found), found


@needs_crds
@pytest.mark.parametrize("kind", RAY_KINDS)
def test_the_short_shapes_say_what_the_definitions_say(kind: str) -> None:
    assert strays(shapes()[kind], read_definitions(CRDS)[kind], kind) == []


def test_the_kustomization_names_files_that_are_there() -> None:
    [path] = [path for path in MANIFESTS if path.name == "kustomization.yaml"]
    [found] = documents(path)
    for name in found["resources"]:
        assert (path.parent / name).is_file(), name
