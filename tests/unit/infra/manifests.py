"""The files of infra/, read: what the tests beside this share."""

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[3]
INFRA = ROOT / "infra"
IMAGE_CONFIGS = "/opt/scen/configs"  # where the image has configs/
MANIFESTS = [
    *sorted((INFRA / "kuberay").glob("*.yaml")),
    *sorted((INFRA / "mlflow").glob("*.yaml")),
]


@dataclass(frozen=True)
class Command:
    """A command line that a file holds."""

    where: str
    words: tuple[str, ...]


@cache
def documents(path: Path) -> list[dict[str, Any]]:
    """The YAML documents of a file, read once: change copies only."""
    return [found for found in yaml.safe_load_all(path.read_text()) if found is not None]


def objects() -> list[tuple[str, dict[str, Any]]]:
    """Every Kubernetes object, with the name of its file."""
    return [
        (path.name, found)
        for path in MANIFESTS
        if path.name != "kustomization.yaml"
        for found in documents(path)
    ]


def of_kind(kind: str) -> dict[str, dict[str, Any]]:
    """The objects of a kind, by name."""
    return {found["metadata"]["name"]: found for _, found in objects() if found["kind"] == kind}


def compose() -> dict[str, Any]:
    """infra/docker/compose.yaml."""
    [found] = documents(INFRA / "docker/compose.yaml")
    return found


def pods(node: Any) -> Iterator[dict[str, Any]]:
    """Every pod specification in an object, at whatever depth."""
    if isinstance(node, dict):
        if "containers" in node:
            yield node
        node = list(node.values())
    if isinstance(node, list):
        for item in node:
            yield from pods(item)


def containers() -> list[tuple[str, dict[str, Any]]]:
    """Every container of every object, with kind and name of the object."""
    return [
        (f"{found['kind']} {found['metadata']['name']}", box)
        for _, found in objects()
        for pod in pods(found)
        for box in pod["containers"]
    ]


def dockerfile(path: str) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile in infra/: name and rest, with lines that go on joined."""
    lines = [line for line in (INFRA / path).read_text().splitlines() if not line.startswith("#")]
    text = "\n".join(lines).replace("\\\n", " ")
    return [
        (name, rest.strip()) for name, _, rest in (x.partition(" ") for x in text.splitlines() if x)
    ]


def image_command(path: str) -> tuple[str, ...]:
    """What an image runs when it is told nothing."""
    [text] = [rest for name, rest in dockerfile(path) if name == "CMD"]
    return tuple(json.loads(text))


def image_environment() -> dict[str, str]:
    """ENV of the platform's image, of its last stage."""
    stages = [i for i, (name, _) in enumerate(dockerfile("docker/Dockerfile")) if name == "FROM"]
    last = dockerfile("docker/Dockerfile")[stages[-1] :]
    pairs = [pair for name, rest in last if name == "ENV" for pair in shlex.split(rest)]
    return dict(pair.split("=", 1) for pair in pairs)


def commands() -> list[Command]:
    """Every command line of the platform and of MLflow, with its variables filled in."""
    found = [Command("docker/Dockerfile", image_command("docker/Dockerfile"))]
    services = compose()["services"]
    found += [
        Command(f"compose.yaml: {name}", tuple(service["command"]))
        for name, service in services.items()
        if "command" in service
    ]
    found += [
        Command(name, tuple(box["command"])) for name, box in containers() if "command" in box
    ]
    found += [
        Command(f"RayJob {name}", tuple(shlex.split(job["spec"]["entrypoint"])))
        for name, job in of_kind("RayJob").items()
    ]
    return [Command(x.where, tuple(map(_filled_in, x.words))) for x in found]


def in_repository(path: str) -> str:
    """A path of the image as one of the repository."""
    assert path.startswith(f"{IMAGE_CONFIGS}/"), path
    return str(ROOT / "configs" / path.removeprefix(f"{IMAGE_CONFIGS}/"))


def _filled_in(word: str) -> str:
    settings = of_kind("ConfigMap")["scen"]["data"] | _mlflow_secret()
    return re.sub(r"\$\((\w+)\)", lambda match: settings[match.group(1)], word)


def _mlflow_secret() -> dict[str, str]:
    found: dict[str, str] = of_kind("Secret")["mlflow"]["stringData"]
    return found
