"""The check of phrases and names: what it reports, and what it leaves alone."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

SOURCE = '''"""Which version is
told to the server."""
# A comment that goes
# on for two lines.
found = "is told to a string"
said = 1  # prose: ignore
text = f(help="What the usual value is.")
'''
MARKDOWN = """An edit is told to `what is told` the server.

```sh
echo is told to
```

The rest goes on. <!-- prose: ignore -->
"""


def reported(path: Path, text: str) -> list[str]:
    """The reports on a file with this text, without what to write instead."""
    path.write_text(text, encoding="utf-8")
    command = [sys.executable, "-P", ".ci/prose.py", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.returncode == (1 if done.stdout else 0)
    reports = (line.removeprefix(f"{path}:") for line in done.stdout.splitlines())
    return [":".join(report.split(":")[:2]) for report in reports]


def test_docstrings_comments_names_and_help_are_checked_but_not_strings(tmp_path: Path) -> None:
    assert reported(tmp_path / "module.py", SOURCE) == [
        '1: "is told"',
        '2: "told to"',
        '3: "goes on"',
        '5: "found"',
        '7: "the usual"',
        '7: "usual value"',
    ]


def test_markdown_is_checked_outside_of_code(tmp_path: Path) -> None:
    assert reported(tmp_path / "page.md", MARKDOWN) == ['1: "is told"', '1: "told to"']


def test_text_without_a_match_passes(tmp_path: Path) -> None:
    assert reported(tmp_path / "module.py", '"""A module."""\n') == []
