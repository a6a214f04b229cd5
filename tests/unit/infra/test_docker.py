"""The image and the services of one machine: what they are made of, and that they fit together."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fastapi.routing import APIRoute

from scen import __version__
from scen.cli.main import build_app
from scen.cluster import session
from scen.ledger.manifest import MANIFEST_PATH
from scen.snapshot.open import OpenStore
from scen_serve.api.access import AppSettings, is_loopback, read_keys
from scen_serve.api.app import create_app
from scen_serve.service import Service
from scen_serve.settings import EngineLimits
from unit.infra.manifests import (
    INFRA,
    ROOT,
    compose,
    containers,
    dockerfile,
    documents,
    image_command,
    image_environment,
)
from unit.serve.conftest import store

__all__ = ["store"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
IMAGES = {f"scen-platform:{__version__}{kind}" for kind in ("", "-cuda", "-vllm")}


def instructions(name: str, path: str = "docker/Dockerfile") -> list[str]:
    """All of one kind in a Dockerfile."""
    return [rest for found, rest in dockerfile(path) if found == name]


def test_the_image_has_the_python_and_the_torch_that_the_project_is_tested_with() -> None:
    arguments = dict(rest.split("=", 1) for rest in instructions("ARG"))
    assert arguments["PYTHON"].startswith("3.11.")
    assert f"TORCH_CPU := {arguments['TORCH']}\n" in (ROOT / "Makefile").read_text()
    stages = instructions("FROM")
    assert [stage.split()[0] for stage in stages] == ["python:${PYTHON}-slim-bookworm"] * 2
    [mlflow] = instructions("FROM", "mlflow/Dockerfile")
    assert mlflow == f"python:{arguments['PYTHON']}-slim-bookworm"


def test_the_image_has_the_extras_and_no_root() -> None:
    assert "scen_platform-*.whl)[${EXTRAS}]" in " ".join(instructions("RUN"))
    extras = dict(rest.split("=", 1) for rest in instructions("ARG"))["EXTRAS"]
    assert extras == "cluster,serve"
    known = set(PROJECT["project"]["optional-dependencies"])
    comment = (ROOT / "infra/docker/Dockerfile").read_text()
    assert {*extras.split(","), *re.findall(r"--build-arg EXTRAS=(\w+)", comment)} <= known
    assert instructions("USER") == ["1000:1000"]
    assert instructions("USER", "mlflow/Dockerfile") == ["1000:1000"]


def test_ray_in_the_image_is_set_as_the_platform_sets_it() -> None:
    mine = {name: value for name, value in image_environment().items() if name.startswith("RAY_")}
    assert mine == session._ENVIRONMENT


def serve_words() -> dict[str, Any]:
    """The options of the image's own command."""
    _, words, _ = build_app().parse_args(image_command("docker/Dockerfile")[1:])
    words.apply_defaults()
    return words.arguments


def test_the_health_of_the_image_is_a_route_of_the_server(store: OpenStore) -> None:
    app = create_app(Service(store, EngineLimits(max_rows=2)), AppSettings("tiny"))
    paths = {route.path for route in app.routes if isinstance(route, APIRoute)}
    [check] = instructions("HEALTHCHECK")
    url = urlsplit(re.findall(r"http://[^']+", check)[0])
    args = serve_words()
    assert url.path in paths
    assert url.port == args["port"]
    assert instructions("EXPOSE") == [str(args["port"])]


def test_the_build_sees_what_the_wheel_is_made_of_and_no_more() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    seen = {line[1:] for line in lines if line.startswith("!")}
    project = PROJECT["project"]
    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    made_of = {*wheel["packages"], *wheel["force-include"]}
    wanted = {*made_of, project["readme"], *project["license-files"], "pyproject.toml"}
    copied = {rest.split()[0] for rest in instructions("COPY", "mlflow/Dockerfile")}
    assert seen == wanted | copied | {"configs"}
    assert [path for path in seen if not (ROOT / path).exists()] == []


def test_one_image_of_this_release_everywhere() -> None:
    used = {box["image"] for _, box in containers()}
    used |= {service["image"] for service in compose()["services"].values()}
    mine = {image for image in used if image.startswith("scen-platform")}
    assert mine == IMAGES
    assert all(re.search(r":v?\d+\.\d+\.\d+", image) for image in used)
    named = re.findall(r"scen-platform:\S+", (INFRA / "docker/Dockerfile").read_text())
    assert set(named) == IMAGES


def test_services_listen_on_this_machine_only_and_are_confined() -> None:
    for name, service in compose()["services"].items():
        for port in service.get("ports", []):
            assert is_loopback(port.rsplit(":", 2)[0]), name
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]


def test_volumes_and_secrets_are_declared() -> None:
    found = compose()
    for service in found["services"].values():
        named = {volume.split(":")[0] for volume in service.get("volumes", [])}
        assert {volume for volume in named if not volume.startswith(".")} <= set(found["volumes"])
        for path in (volume for volume in named if volume.startswith(".")):
            assert (INFRA / "docker" / path).exists(), path
        assert set(service.get("secrets", [])) <= set(found["secrets"])
        assert set(service.get("depends_on", {})) <= set(found["services"])


def test_the_server_has_its_keys_its_port_and_the_store() -> None:
    services = compose()["services"]
    args = serve_words()
    serve = services["serve"]
    assert "command" not in serve  # the image's own
    assert args["api_keys"] == f"/run/secrets/{serve['secrets'][0]}"
    assert serve["ports"] == [f"127.0.0.1:{args['port']}:{args['port']}"]
    assert f"store:{args['store']}" in serve["volumes"]
    check = services["drain"]["healthcheck"]["test"]
    assert check[-1] == f"{args['store']}/{MANIFEST_PATH}"
    cache = Path(image_environment()["SCEN_CACHE"])
    assert f"cache:{cache.parent}" in serve["volumes"]


def test_prometheus_asks_the_server_with_a_key_it_has() -> None:
    services = compose()["services"]
    [config] = documents(INFRA / "monitoring/prometheus.yml")
    [job] = [job for job in config["scrape_configs"] if job["job_name"] == "scen-serve"]
    [target] = job["static_configs"][0]["targets"]
    name, port = target.split(":")
    assert services[name]["ports"] == [f"127.0.0.1:{port}:{port}"]
    [secret] = services["prometheus"]["secrets"]
    assert job["authorization"] == {"credentials_file": f"/run/secrets/{secret}"}
    mounts = " ".join(services["prometheus"]["volumes"])
    assert [file for file in config["rule_files"] if f"/etc/prometheus/{file}" not in mounts] == []


def test_grafana_finds_its_source_and_its_boards() -> None:
    grafana = compose()["services"]["grafana"]
    [sources] = documents(INFRA / "monitoring/grafana/provisioning/datasources/scen.yaml")
    url = urlsplit(sources["datasources"][0]["url"])
    [port] = compose()["services"][url.hostname or ""]["ports"]
    assert port.endswith(f":{url.port}")
    [boards] = documents(INFRA / "monitoring/grafana/provisioning/dashboards/scen.yaml")
    folder = boards["providers"][0]["options"]["path"]
    assert f"../monitoring/grafana/dashboards:{folder}:ro" in grafana["volumes"]


def draw_secrets(script: Path) -> dict[str, str]:
    """What the files hold after the script, which must not tell a key."""
    told = subprocess.run(["sh", script], check=True, capture_output=True, text=True).stdout
    assert "sk-" not in told
    return {path.name: path.read_text() for path in (script.parent / "secrets").iterdir()}


def test_secrets_are_drawn_once_and_are_keys_of_the_server(tmp_path: Path) -> None:
    script = Path(shutil.copy(INFRA / "docker/make_secrets.sh", tmp_path))
    files = draw_secrets(script)
    assert draw_secrets(script) == files
    declared = {secret["file"] for secret in compose()["secrets"].values()}
    assert declared == {f"secrets/{name}" for name in files}
    keys = {key.name: key for key in read_keys(str(tmp_path / "secrets/api-keys.yaml"))}
    assert keys["prometheus"].key == files["metrics-key"]
    assert keys["prometheus"].scopes == ("read",)
    assert (INFRA / "docker/.gitignore").read_text() == "secrets/\n"
