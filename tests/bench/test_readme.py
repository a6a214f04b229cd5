"""The commands of the README can be run: programs, words, flags and files are there."""

import itertools
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from scen.cli.parser import build_parser

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FOLDERS = ("configs/", "infra/", "jobs/", "platform/", "serve/", "tests/")
UNKNOWN = "--no-such-flag"

Words = list[str]


def bare(words: Words) -> Words:
    """Without settings of the environment and without the program's folder."""
    rest = list(itertools.dropwhile(lambda word: re.fullmatch(r"[A-Z_]+=\S*", word), words))
    return [Path(rest[0]).name, *rest[1:]] if rest else []


def whole_commands() -> list[Words]:
    """The commands of the shell blocks."""
    blocks = re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    joined = "".join(blocks).replace("\\\n", " ")
    joined = re.sub(r"'[^']*'", lambda quoted: quoted[0].replace("\n", " "), joined)
    lines = (shlex.split(line, comments=True) for line in joined.splitlines())
    return [bare(words) for words in lines if words]


def named_commands() -> list[Words]:
    """What stands in backticks within the text; of a command it may be a part only."""
    text = re.sub(r"^```.*?^```", "", README, flags=re.MULTILINE | re.DOTALL)
    return [bare(code.split()) for code in re.findall(r"`([^`\n]+)`", text)]


WHOLE, NAMED = whole_commands(), named_commands()


def of_program(name: str) -> list[Words]:
    """The commands of a program; at least one."""
    found = [words for words in [*WHOLE, *NAMED] if words[:1] == [name] and len(words) > 1]
    assert found, f"the README has no `{name}` command"
    return found


def test_scen_command_lines_are_understood() -> None:
    lines = [words for words in WHOLE if words[0] == "scen"]
    assert len(lines) > 10
    for words in lines:
        build_parser().parse_args(words[1:])


def test_flags_of_scen_commands_within_the_text_are_there(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for words in of_program("scen"):
        named = itertools.takewhile(lambda word: word[0] != "-" and word.islower(), words[1:])
        with pytest.raises(SystemExit) as ended:
            build_parser().parse_args([*named, "--help"])
        assert ended.value.code == 0, words
        known = set(re.findall(r"(?<![\w-])--[a-z-]+", capsys.readouterr().out))
        assert {word.partition("=")[0] for word in words if word.startswith("--")} <= known, words


def test_flags_of_scripts_are_understood(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each is given one more, which must be the only one that it complains of."""
    scripts = [words for words in of_program("python") if words[1].startswith("tests/bench/")]
    assert len(scripts) > 4
    for _, script, *words in scripts:
        assert (ROOT / script).is_file(), script
        if not words:
            continue
        monkeypatch.setattr(sys, "argv", [script, *words, UNKNOWN])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / script), run_name="__main__")
        told = capsys.readouterr().err
        assert (ended.value.code, told.endswith(f"arguments: {UNKNOWN}\n")) == (2, True), told


def test_targets_of_make_are_there() -> None:
    targets = {word for words in of_program("make") for word in words[1:] if "=" not in word}
    assert {"demo", "test"} <= targets
    for target in sorted(targets):
        command = ["make", "--dry-run", target]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_files_that_commands_name_are_there() -> None:
    words = {word for line in [*WHOLE, *NAMED] for word in line if word.startswith(FOLDERS)}
    assert len(words) > 10
    assert {word for word in words if not (ROOT / word).exists()} == set()


def test_jobs_and_extras_are_there() -> None:
    jobs = set(re.findall(r"scen_jobs\.(\w+)", README))
    assert jobs <= {path.stem for path in (ROOT / "jobs" / "scen_jobs").glob("run_*.py")}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = set(re.findall(r"scen-platform\[(\w+)\]", README))
    assert extras <= set(project["optional-dependencies"])
    assert jobs
    assert extras
