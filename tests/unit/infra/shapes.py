"""From the short notation of shapes.yaml to JSON Schema."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

jsonschema: Any = importlib.import_module("jsonschema")  # comes with Ray, without types
_PLAIN = {"string", "integer", "number", "boolean"}


def shapes() -> dict[str, Any]:
    """The shape of each kind of object."""
    found: dict[str, Any] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text())["kinds"]
    return found


def faults(shape: Any, manifest: Any) -> list[str]:
    """What is wrong with a manifest, each with its place."""
    return list(complaints(to_schema(shape), manifest))


def complaints(schema: dict[str, Any], manifest: Any) -> Iterator[str]:
    """The same by a JSON Schema."""
    for error in jsonschema.Draft202012Validator(schema).iter_errors(manifest):
        yield f"{'.'.join(map(str, error.absolute_path))}: {error.message}"


def to_schema(shape: Any) -> dict[str, Any]:
    """The JSON Schema of a shape."""
    if isinstance(shape, list):
        [item] = shape
        return {"type": "array", "items": to_schema(item)}
    if isinstance(shape, dict):
        if set(shape) == {"*"}:
            return {"type": "object", "additionalProperties": to_schema(shape["*"])}
        return {
            "type": "object",
            "properties": {name.rstrip("!"): to_schema(sub) for name, sub in shape.items()},
            "required": [name.rstrip("!") for name in shape if name.endswith("!")],
            "additionalProperties": False,
        }
    if "|" in shape:
        return {"enum": words(shape)}
    return {"type": ["number", "string"]} if shape == "quantity" else {"type": _plain(shape)}


def words(shape: str) -> list[str]:
    """The words that `a | b` allows."""
    return [word.strip() for word in shape.split("|") if word.strip()]


def _plain(shape: str) -> str:
    if shape not in _PLAIN:
        raise ValueError(f"shapes.yaml: {shape!r} is no type")
    return shape
