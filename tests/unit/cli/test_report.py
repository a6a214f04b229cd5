"""`scen report`: paths, key figures, and what it refuses."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from scen.cli.main import main
from unit.report.conftest import made

pytestmark = pytest.mark.slow

__all__ = ["made"]  # fixture


def test_it_writes_a_page_and_prints_its_path(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a report"
    argv = ["report", "--store", str(made), "--out", str(out)]
    capsys.readouterr()
    assert main([*argv, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["index"] == str(out / "index.html")
    assert sorted(told["files"]) == sorted(str(path) for path in out.iterdir())
    assert (told["version"], told["active_edits"]) == (4, 5)
    assert main([*argv, "--version", "2", "--stream", "facts", "--plots", "1"]) == 0
    words = capsys.readouterr().out
    assert "Version 2 has 5 active edits (stream facts)." in words
    assert f"report     {out}/index.html" in words
    assert "version 2</title>" in (out / "index.html").read_text()


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["--version", "9"], 5, "--version: 9 is not one of 0 to 4"),
        (["--stream", "olds"], 5, "--stream: 'olds' is not in version 4"),
    ],
)
def test_what_is_not_there_leaves_no_folder(
    made: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    argv: list[str],
    code: int,
    words: str,
) -> None:
    out = tmp_path / "out"
    assert main(["report", "--store", str(made), "--out", str(out), *argv]) == code
    assert words in capsys.readouterr().err
    assert not out.exists()


def test_a_folder_with_other_files_is_refused(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.txt").write_text("x")
    assert main(["report", "--store", str(made), "--out", str(tmp_path)]) == 2
    assert "holds something else than an earlier report" in capsys.readouterr().err
    assert main(["report", "--store", str(made), "--out", str(made)]) == 2


def test_it_loads_neither_torch_nor_mlflow(made: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from scen.cli.main import main; "
        f"assert main(['report', '--store', {str(made)!r}, '--out', {str(tmp_path)!r}]) == 0; "
        "assert not {'torch', 'transformers', 'mlflow', 'ray'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=True, timeout=120)
