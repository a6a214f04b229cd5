"""The wheel, built and installed as a user has it: all files are there, and its commands start."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOTS = {"scen": "platform", "scen_jobs": "jobs", "scen_serve": "serve", "scen_vllm": "serve"}
DATA = {
    "scen/samples/asking.yaml",
    "scen/samples/zsre_edits.jsonl",
    "scen/samples/counterfact_edits.jsonl",
    "scen/profiles/smollm2-135m-instruct.json",
    "scen/profiles/smollm2-135m-instruct.safetensors",
    "scen/report/templates/report.html.j2",
    "scen_serve/config.yaml",
    *(f"scen_serve/static/{name}" for name in ("index.html", "style.css", "main.js", "chat.js")),
    *(f"{package}/py.typed" for package in ROOTS),
}


def pip(*words: object) -> None:
    """Run pip without network."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the working tree."""
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-build-isolation", "--no-deps", "--no-index", "--wheel-dir", folder, ROOT)
    [found] = folder.glob("scen_platform-*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """The wheel in a folder of its own, beside the packages that the tests have."""
    folder = wheel.parent / "installed"
    pip("install", "--no-deps", "--no-index", "--no-compile", "--target", folder, wheel)
    return folder


def run(installed: Path, *command: object) -> str:
    """What a command prints that finds the installation, and not the working tree."""
    done = subprocess.run(
        list(map(str, command)),
        cwd=installed.parent,
        env=os.environ | {"PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_file_of_the_packages_is_in_the_wheel(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    tree = {
        path.relative_to(ROOT / root).as_posix()
        for package, root in ROOTS.items()
        for path in (ROOT / root / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert names == tree | {"scen_serve/config.yaml"}
    assert names >= DATA


def test_the_wheel_has_its_licences(wheel: Path) -> None:
    names = {Path(name).name for name in zipfile.ZipFile(wheel).namelist() if "licenses/" in name}
    assert names == {"LICENSE", "NOTICE"}


def test_packages_and_data_come_from_the_installation(installed: Path) -> None:
    code = (
        "import scen, scen_jobs, scen_serve, scen_vllm\n"
        "from scen.samples import sample_names, sample_path\n"
        "for package in (scen, scen_jobs, scen_serve, scen_vllm): print(package.__file__)\n"
        "for name in sample_names(): print(sample_path(name))"
    )
    places = run(installed, sys.executable, "-c", code).splitlines()
    assert len(places) > len(ROOTS)
    assert [place for place in places if not Path(place).is_relative_to(installed)] == []


def test_scen_starts_from_the_installation(installed: Path) -> None:
    assert "Usage: scen demo" in run(installed, installed / "bin" / "scen", "demo", "--help")
    served = run(installed, sys.executable, "-m", "scen.cli.main", "serve", "--help")
    assert "Usage: scen serve" in served
