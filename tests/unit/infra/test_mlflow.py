"""The tracking servers: of the platform's release, and open to those who are meant to ask."""

import configparser
import re
from urllib.parse import urlsplit

from mlflow import __version__ as mlflow_release
from mlflow.server.security_utils import is_allowed_host_header

from unit.infra.manifests import INFRA, commands, compose, of_kind

WORDS = {x.where: x.words for x in commands() if x.words[:2] == ("mlflow", "server")}
ONE, TEAM = "compose.yaml: mlflow", "Deployment mlflow"


def option(where: str, name: str) -> str:
    """The value of an option of a tracking server."""
    [found] = [word for word in WORDS[where] if word.startswith(f"--{name}=")]
    return found.partition("=")[2]


def test_the_server_is_of_the_release_that_the_platform_has() -> None:
    text = (INFRA / "mlflow/requirements.txt").read_text()
    [release] = re.findall(r"^mlflow\[auth\]==(\S+)$", text, re.MULTILINE)
    assert release == mlflow_release
    images = [service["image"] for service in compose()["services"].values()]
    images += [pod["image"] for pod in containers_of_mlflow()]
    assert {image for image in images if "mlflow" in image} == {f"scen-mlflow:{release}"}


def containers_of_mlflow() -> list[dict[str, str]]:
    """The one container of the deployment."""
    found: list[dict[str, str]] = of_kind("Deployment")["mlflow"]["spec"]["template"]["spec"][
        "containers"
    ]
    return found


def test_a_server_answers_to_the_names_it_is_asked_by_and_to_no_other() -> None:
    asked = {
        ONE: compose()["services"]["drain"]["environment"]["MLFLOW_TRACKING_URI"],
        TEAM: of_kind("ConfigMap")["scen"]["data"]["MLFLOW_TRACKING_URI"],
    }
    for where, uri in asked.items():
        allowed = option(where, "allowed-hosts").split(",")
        assert urlsplit(uri).port == int(option(where, "port"))
        for host in (urlsplit(uri).netloc, "localhost:5000", "127.0.0.1:5000"):
            assert is_allowed_host_header(allowed, host), host
        for host in ("evil.example", "mlflow.evil.example:5000"):
            assert not is_allowed_host_header(allowed, host)


def test_the_deployment_is_behind_its_service() -> None:
    service, deployment = of_kind("Service")["mlflow"], of_kind("Deployment")["mlflow"]
    uri = urlsplit(of_kind("ConfigMap")["scen"]["data"]["MLFLOW_TRACKING_URI"])
    assert uri.hostname == service["metadata"]["name"]
    [port] = service["spec"]["ports"]
    assert port["port"] == uri.port
    template = deployment["spec"]["template"]
    assert service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
    [box] = template["spec"]["containers"]
    assert box["ports"] == [
        {"name": port["targetPort"], "containerPort": int(option(TEAM, "port"))}
    ]


def test_the_team_server_wants_a_login_and_keeps_users_beside_its_records() -> None:
    assert option(TEAM, "app-name") == "basic-auth"
    secret = of_kind("Secret")["mlflow"]["stringData"]
    assert len(secret["MLFLOW_AUTH_ADMIN_PASSWORD"]) >= 12  # or it does not start
    assert secret["MLFLOW_FLASK_SERVER_SECRET_KEY"]
    auth = configparser.ConfigParser()
    auth.read_string(of_kind("Secret")["mlflow-auth"]["stringData"]["basic_auth.ini"])
    assert auth["mlflow"]["default_permission"] == "READ"
    assert auth["mlflow"]["database_uri"] == secret["MLFLOW_BACKEND_STORE_URI"]
    # Without a driver in it, SQLAlchemy chooses one by its own release.
    assert secret["MLFLOW_BACKEND_STORE_URI"].startswith("postgresql+psycopg://")
    assert "\npsycopg[binary]" in (INFRA / "mlflow/requirements.txt").read_text()
    clients = of_kind("Secret")["scen-credentials"]["stringData"]
    assert {"MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"} <= set(clients)
