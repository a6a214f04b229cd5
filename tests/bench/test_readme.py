"""The README files hold: their commands can be run (programs, words, flags and files exist), their
links resolve, the table of settings is complete, and the first of them is short."""

import itertools
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from scen.cli.main import build_app, main
from scen.config import Config
from scen.pipeline.job_spec import parse_spec

ROOT = Path(__file__).parents[2]
PLACES = ["", "platform", "serve", "jobs", "configs", "configs/eval", "tests"]
PATHS = [ROOT / place / "README.md" for place in PLACES]
OTHERS = [
    ROOT / place / "README.md" for place in ("infra", "infra/mlflow", "platform/scen/samples")
]
README = "\n".join(path.read_text(encoding="utf-8") for path in PATHS)
MAX_LINES = 200  # of the first README
FOLDERS = ("configs/", "infra/", "jobs/", "platform/", "serve/", "tests/")
UNKNOWN = "--no-such-flag"

Words = list[str]


def bare(words: Words) -> Words:
    """Without settings of the environment and without the program's folder."""
    rest = list(itertools.dropwhile(lambda word: re.fullmatch(r"[A-Z_]+=\S*", word), words))
    return [Path(rest[0]).name, *rest[1:]] if rest else []


def whole_commands() -> list[Words]:
    """The commands of the shell blocks, without comments, which may have apostrophes."""
    blocks = re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    plain = re.sub(r"  +# .*$", "", "".join(blocks), flags=re.MULTILINE)
    joined = plain.replace("\\\n", " ")
    joined = re.sub(r"'[^']*'", lambda quoted: quoted[0].replace("\n", " "), joined)
    lines = (shlex.split(line, comments=True) for line in joined.splitlines())
    return [bare(words) for words in lines if words]


def named_commands() -> list[Words]:
    """What stands in backticks within the text; of a command it may be a part only."""
    text = re.sub(r"^```.*?^```", "", README, flags=re.MULTILINE | re.DOTALL)
    return [bare(code.split()) for code in re.findall(r"`([^`\n]+)`", text)]


def anchors(path: Path) -> set[str]:
    """The names by which GitHub links to the headings of a file."""
    text = re.sub(r"^```.*?^```", "", path.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(path: Path) -> list[tuple[str, str]]:
    """The relative links of a file: path and anchor, each of which may be empty."""
    targets = re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8"))
    parts = (target.partition("#") for target in targets if "://" not in target)
    return [(file, anchor) for file, _, anchor in parts]


def defaults(model: type[BaseModel], prefix: str = "") -> dict[str, object]:
    """Every setting by its dotted name, with its default."""
    found: dict[str, object] = {}
    for name, field in model.model_fields.items():
        default = field.get_default()
        if isinstance(default, BaseModel):
            found |= defaults(type(default), f"{prefix}{name}.")
        else:
            found[prefix + name] = default
    return found


WHOLE, NAMED = whole_commands(), named_commands()


def of_program(name: str) -> list[Words]:
    """The commands of a program; at least one."""
    found = [words for words in [*WHOLE, *NAMED] if words[:1] == [name] and len(words) > 1]
    assert found, f"no README has a `{name}` command"
    return found


def test_scen_command_lines_are_understood() -> None:
    lines = [words for words in WHOLE if words[0] == "scen"]
    assert len(lines) > 10
    for words in lines:
        build_app().parse_args(words[1:], exit_on_error=False, print_error=False)


def test_flags_of_scen_commands_within_the_text_are_there(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for words in of_program("scen"):
        named = itertools.takewhile(lambda word: word[0] != "-" and word.islower(), words[1:])
        assert main([*named, "--help"]) == 0, words
        known = {"--help", *re.findall(r"(?<![\w-])--[a-z-]+", capsys.readouterr().out)}
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
    jobs = re.findall(r"^python -m scen_jobs --spec '(.*?)'$", README, re.MULTILINE | re.DOTALL)
    for spec in jobs:
        parse_spec(spec)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = set(re.findall(r"scen-platform\[(\w+)\]", README))
    assert extras <= set(project["optional-dependencies"])
    assert jobs
    assert extras


def test_the_first_readme_is_short() -> None:
    assert len(PATHS[0].read_text(encoding="utf-8").splitlines()) <= MAX_LINES


def test_relative_links_resolve() -> None:
    found = [(path, *link) for path in [*PATHS, *OTHERS] for link in links(path)]
    assert len(found) > 40
    for path, file, anchor in found:
        target = path.parent / file if file else path
        assert target.exists(), (path, file)
        if anchor:
            assert anchor in anchors(target), (path, file, anchor)


def test_the_table_of_settings_is_complete() -> None:
    text = (ROOT / "platform" / "README.md").read_text(encoding="utf-8").partition("## Settings")[2]
    rows = re.findall(r"^\| `([\w.]+)` \| `([^`]+)` \|", text, re.MULTILINE)
    assert {name: yaml.safe_load(value) for name, value in rows} == defaults(Config)
