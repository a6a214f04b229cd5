"""The words of `scen serve` as they are read."""

import pytest

from scen.cli.parser import build_parser


@pytest.mark.parametrize(
    ("words", "kept"),
    [([], 256 << 20), (["--prefix-mib", "0"], 0), (["--prefix-mib", "3"], 3 << 20)],
)
def test_mebibytes_are_bytes(words: list[str], kept: int) -> None:
    assert build_parser().parse_args(["serve", "--store", "x", *words]).prefix_bytes == kept


def test_what_is_no_number_of_mebibytes_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        build_parser().parse_args(["serve", "--store", "x", "--prefix-mib", "-1"])
    assert "--prefix-mib" in capsys.readouterr().err
