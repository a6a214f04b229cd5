"""The YAML of a benchmark, and those that ship."""

from pathlib import Path

import pytest
import yaml

from scen.benchmark.settings import load_benchmark
from scen.errors import ConfigError

SHIPPED = sorted(Path("configs/eval").glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_benchmarks_are_valid_and_named_after_their_file(path: Path) -> None:
    settings = load_benchmark(path)
    assert settings.name == path.stem
    for method in settings.methods:
        for name, values in method.grid.items():
            for value in values:
                method.build(**{name: value})


def test_there_are_shipped_benchmarks() -> None:
    assert {"zsre-200", "zsre-1000", "hallucination-200"} <= {path.stem for path in SHIPPED}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"methods": [{"name": "x", "editor": "rome"}]}, "editor: 'rome' is none of base, "),
        (
            {"methods": [{"name": "x", "editor": "grace", "settings": {"speed": 1}}]},
            r"methods\.x\.settings: speed is not a setting of grace, which has layer",
        ),
        ({"sizes": []}, "sizes: "),
        ({"edit": "a"}, "edit: "),
        ({"methods": []}, "methods: "),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, change: object, message: str) -> None:
    given = {
        "name": "x",
        "edits": "a.jsonl",
        "unrelated": "b.jsonl",
        "methods": [{"name": "base", "editor": "base"}],
    }
    assert isinstance(change, dict)
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump(given | change), encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        load_benchmark(path)
