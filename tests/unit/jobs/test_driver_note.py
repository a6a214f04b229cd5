"""A driver tells whether it has loaded what is the workers' to load."""

from pathlib import Path

import pytest

from scen.model.base import Base, open_base
from scen_jobs.driver_note import say_driver


def test_weights_that_were_loaded_are_told_of(
    tiny: Base, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    say_driver(tiny)
    assert "driver: weights of the base loaded here, at most " in capsys.readouterr().err
    say_driver(open_base(str(tiny_folder), device="cpu"))
    assert "driver: weights of the base not loaded here, at most " in capsys.readouterr().err
