"""The operator's own definitions, in files that KUBERAY_CRDS names the folder of."""

from functools import cache
from pathlib import Path
from typing import Any

import yaml

from unit.infra.shapes import words

_LOOSE = "x-kubernetes-preserve-unknown-fields"


@cache
def read_definitions(folder: str) -> dict[str, dict[str, Any]]:
    """The schema of v1 of each kind, as JSON Schema that refuses what it does not know."""
    found = {}
    for path in sorted(Path(folder).glob("ray.io_*.yaml")):
        definition = yaml.load(path.read_text(), Loader=yaml.CSafeLoader)
        for version in definition["spec"]["versions"]:
            if version["name"] == "v1":
                schema = strict(version["schema"]["openAPIV3Schema"])
                schema["properties"]["metadata"] = {"type": "object"}
                found[definition["spec"]["names"]["kind"]] = schema
    return found


def strict(node: Any) -> Any:
    """A structural schema as JSON Schema that refuses unknown fields."""
    if isinstance(node, list):
        return [strict(item) for item in node]
    if not isinstance(node, dict):
        return node
    out = {
        name: sub for name, sub in node.items() if name not in ("default", "description", "format")
    }
    for name in ("items", "additionalProperties", "anyOf", "allOf", "oneOf"):
        if name in out:
            out[name] = strict(out[name])
    if "properties" in out:
        out["properties"] = {name: strict(sub) for name, sub in out["properties"].items()}
        if not out.get(_LOOSE):
            out.setdefault("additionalProperties", False)
    if out.get("x-kubernetes-int-or-string"):
        out.pop("type", None)
        out.setdefault("anyOf", [{"type": "integer"}, {"type": "string"}])
    return out


def strays(shape: Any, schema: dict[str, Any], place: str) -> list[str]:
    """Where a shape says something else than a definition does."""
    if isinstance(shape, list):
        return strays(shape[0], schema.get("items", {}), f"{place}[]")
    if not isinstance(shape, dict):
        return _stray_word(shape, schema, place)
    if set(shape) == {"*"}:
        any_key = schema.get("additionalProperties")
        return strays(shape["*"], any_key, f"{place}.*") if any_key else [f"{place}: no map"]
    known = schema.get("properties", {})
    names = {name.rstrip("!"): sub for name, sub in shape.items()}
    must = {name.rstrip("!") for name in shape if name.endswith("!")}
    found = [f"{place}.{name}: there is none" for name in names if name not in known]
    found += [f"{place}.{x}: must be there" for x in schema.get("required", []) if x not in must]
    for name, sub in names.items():
        if name in known and name not in ("apiVersion", "kind", "metadata"):
            found += strays(sub, known[name], f"{place}.{name}")
    return found


def _stray_word(shape: str, schema: dict[str, Any], place: str) -> list[str]:
    if shape == "quantity":
        return [] if "anyOf" in schema else [f"{place}: no quantity"]
    if "|" in shape:
        extra = set(words(shape)) - set(schema.get("enum", words(shape)))
        return [f"{place}: {word} is not allowed" for word in sorted(extra)]
    return [] if schema.get("type") == shape else [f"{place}: {schema.get('type')}, not {shape}"]
