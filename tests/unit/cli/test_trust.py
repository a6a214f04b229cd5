"""`scen sign`, `scen verify --signature`, `scen revoke --certificate`. No base is loaded."""

import json
from pathlib import Path

import pytest

from scen.cli.main import main
from unit.cli.test_life import store, told
from unit.ledger.test_sign import keys

__all__ = ["keys", "store"]  # fixtures


@pytest.mark.slow
def test_a_signed_store_is_verified(
    store: str, keys: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    signature = str(tmp_path / "v1.sig")
    argv = ["sign", str(keys[0]), "--store", store, "--out", signature]
    assert told(capsys, *argv, "--version", "1")["version"] == 1
    check = ["verify", "--store", store, "--signature", signature]
    assert main([*check, "--key", str(keys[1])]) == 0
    assert "version 1 is as it was signed" in (text := capsys.readouterr().out)
    assert "the 1 commits after it are not signed" in text
    assert main(check) == 2
    assert "--key: name the file" in capsys.readouterr().err
    for path in (Path(store) / "bundles").iterdir():
        path.write_bytes(b"other")
    assert main([*check, "--key", str(keys[1])]) == 7


def test_a_certificate_of_edits_that_are_revoked_now_or_were_before(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a1.json"
    argv = ["revoke", "a1", "--store", store, "--why", "wrong", "--certificate", str(out)]
    assert main([*argv, "--no-base"]) == 0
    assert "1 of 1 bundles are still there" in capsys.readouterr().err
    found = json.loads(out.read_text())
    assert [row["event"] for row in found["edits"][0]["history"]] == ["committed", "revoked"]
    assert (found["store"]["version"], found["is_erased"]) == (3, None)
    assert main([*argv, "--no-base"]) == 0  # and again, of what is revoked
    assert json.loads(out.read_text())["store"]["version"] == 3
    assert main(["revoke", "a7", *argv[2:], "--no-base"]) != 0
    assert main([*argv[:-1], str(tmp_path / "no" / "x.json"), "--no-base"]) == 2
    assert "--certificate:" in capsys.readouterr().err
