"""Guards of the layout: what must never appear, and what must stay light."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE_ROOTS = ["platform", "jobs", "serve", "tests"]
MAX_LINES = 400
MAX_FILES = {"platform/scen": 160, "serve/scen_serve": 25, "serve/scen_vllm": 15}
HEAVY = ["torch", "transformers", "ray", "mlflow", "matplotlib"]
LIGHT = ["scen", "scen.config", "scen.records", "scen.data", "scen.ledger"]
CONTRACTS = [
    "Layers: import downwards only",
    "Jobs and servers import scen, never each other; scen_vllm is built on scen_serve",
    "Ray and DeepSpeed only in cluster",
    "Control plane needs no torch",
    "Serving does not train",
    "MLflow only in tracking",
]


def python(code: str, *flags: str) -> str:
    """What a fresh interpreter in the repository's root prints."""
    command = [sys.executable, *flags, "-c", code]
    return subprocess.run(
        command, cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.mark.parametrize("folder", SOURCE_ROOTS)
def test_a_source_root_is_not_a_package(folder: str) -> None:
    """With an __init__.py, platform/ would hide the standard library's `platform`."""
    assert (ROOT / folder).is_dir()
    assert not (ROOT / folder / "__init__.py").exists()


def test_platform_is_the_standard_library_s() -> None:
    found = python("import platform; platform.system(); print(platform.__file__)")
    assert ROOT not in Path(found).parents


@pytest.mark.parametrize("module", LIGHT)
def test_the_control_plane_loads_no_heavy_library(module: str) -> None:
    code = f"import sys, {module}; print([m for m in {HEAVY} if m in sys.modules])"
    assert python(code, "-P") == "[]"


def test_the_modules_of_the_control_plane_load_no_torch() -> None:
    names = [
        ".".join(path.relative_to(ROOT / "platform").with_suffix("").parts)
        for package in ("data", "ledger", "tracking")
        for path in sorted((ROOT / "platform" / "scen" / package).glob("[a-z]*.py"))
        if path.stem not in ("tensors", "logged_model")
    ]
    assert "scen.tracking.wave_runs" in names
    imports = "; ".join(f"import {name}" for name in names)
    heavy = ["torch", "transformers", "ray", "mlflow"]
    assert python(f"import sys; {imports}; print([m for m in {heavy} if m in sys.modules])") == "[]"


def test_every_source_file_fits_on_a_few_screens() -> None:
    files = [path for folder in SOURCE_ROOTS for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 50
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in files}
    assert {name: lines for name, lines in lengths.items() if lines > MAX_LINES} == {}


def test_the_packages_have_few_files() -> None:
    numbers = {folder: len([*(ROOT / folder).rglob("*.py")]) for folder in MAX_FILES}
    assert {name: n for name, n in numbers.items() if n > MAX_FILES[name]} == {}


def test_the_import_contracts_are_all_there() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    assert [contract["name"] for contract in settings["contracts"]] == CONTRACTS
