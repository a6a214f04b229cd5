"""Check docstrings, comments, help texts, names and Markdown against the list in prose.txt.

Reads the paths given, or those of `[tool.prose]` in pyproject.toml. Exits with 1 if any match.
Skips code, string data, text in backticks, and lines with `prose: ignore` in a comment.
"""

import ast
import io
import re
import sys
import tokenize
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
CODE = re.compile(r"^ *```.*?^ *```|`[^`]+`", re.MULTILINE | re.DOTALL)
HELP = {"help", "help_epilogue", "description"}  # keyword arguments

Lines = Iterator[tuple[int, str]]  # number, text
Rules = dict[str, list[tuple[re.Pattern[str], str]]]  # section: patterns, what to write instead


def read_rules(path: Path) -> Rules:
    """The list by section; each line is PATTERN, TAB, REPLACEMENT, and `#` begins a comment."""
    rules: Rules = {}
    for line in path.read_text("utf-8").splitlines():
        if line.startswith("["):
            section = rules.setdefault(line.strip("[]"), [])
        elif line and not line.startswith("#"):
            pattern, instead = line.split("\t")
            wrapped = pattern.replace(" ", r"(?:\s+)")  # a phrase may continue on the next line
            section.append((re.compile(wrapped, re.IGNORECASE), instead))
    return rules


def comments(source: str) -> Lines:
    """Every comment; consecutive lines are one."""
    first, block = 0, [""]
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            if token.start[0] != first + len(block):
                yield first, "\n".join(block)
                first, block = token.start[0], []
            block.append(token.string.lstrip("#"))
    yield first, "\n".join(block)


def texts(tree: ast.AST) -> Lines:
    """Every docstring, those of attributes included, and every help text."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) or (isinstance(node, ast.keyword) and node.arg in HELP):
            value = getattr(node.value, "value", None)  # of a constant
            if isinstance(value, str):
                yield node.value.lineno, value


def names(tree: ast.AST) -> Lines:
    """Every variable, attribute, parameter and function where it is defined."""
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id if isinstance(node, ast.Name) else node.attr


def check(path: Path, rules: Rules) -> Iterator[str]:
    """Every match in a file: its line, the phrase or name, and what to write instead."""
    source, hits = path.read_text("utf-8"), []
    tree = ast.parse(source if path.suffix == ".py" else "")
    blocks = [*comments(source), *texts(tree)] if path.suffix == ".py" else [(1, source)]
    for first, text in blocks:
        plain = CODE.sub(lambda x: "`" + "\n" * x[0].count("\n"), re.sub(r"\n +", "\n", text))
        for pattern, instead in rules["text"]:
            for match in pattern.finditer(plain):
                line = first + plain.count("\n", 0, match.start())
                hits.append((line, " ".join(match[0].split()), instead))
    for line, name in names(tree):
        bare = re.sub(r"_[A-Z0-9]+$", "", name.strip("_"))  # without the suffix for its shape
        hits += [(line, name, x) for pattern, x in rules["names"] if pattern.fullmatch(bare)]
    for line, phrase, instead in sorted(hits):
        if "prose: ignore" not in source.split("\n")[line - 1]:
            yield f'{path}:{line}: "{phrase}": {instead}'


def main(arguments: list[str]) -> int:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]
    places = map(Path, arguments or settings["prose"]["paths"])
    inside = [path for place in places for path in [place, *sorted(place.rglob("*"))]]
    rules = read_rules(ROOT / ".ci" / "prose.txt")
    hits = [x for path in inside if path.suffix in (".py", ".md") for x in check(path, rules)]
    sys.stdout.writelines(f"{hit}\n" for hit in hits)
    return 1 if hits else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
