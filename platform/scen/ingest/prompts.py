"""Files of bare prompts, such as unrelated questions that no edit may change."""

import json
from pathlib import Path

from scen.errors import InputError

_FIELDS = ("prompt", "question", "text")


def read_prompts(path: str | Path, limit: int | None = None) -> list[str]:
    """The prompts of a file: a line each in .txt, a `prompt`, `question` or `text` field each in
    .jsonl. Raises InputError naming the line."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as err:
        raise InputError(f"{path}: cannot be read as a UTF-8 file of prompts ({err})") from err
    is_json = Path(path).suffix in (".jsonl", ".ndjson")
    found: list[str] = []
    for number, line in enumerate(lines, 1):
        if limit is not None and len(found) == limit:
            break
        if line.strip():
            found.append(_prompt_of(line, f"{path}: line {number}") if is_json else line.strip())
    return found


def _prompt_of(line: str, where: str) -> str:
    try:
        row = json.loads(line)
    except ValueError as err:
        raise InputError(f"{where} is not JSON ({err})") from err
    for name in _FIELDS:
        if isinstance(row, dict) and isinstance(row.get(name), str) and row[name].strip():
            return str(row[name]).strip()
    raise InputError(f"{where} has no text in any of the fields {', '.join(_FIELDS)}")
