"""Too little data is refused before anything is read. The whole is tested in tests/e2e."""

import pytest

from scen.calibration.calibrate import calibrate
from scen.errors import InputError
from scen.model.base import Base
from scen.records import Edit


def test_few_edits_or_prompts_are_refused(tiny: Base, edits: list[Edit]) -> None:
    with pytest.raises(InputError, match=r"^--edits: 6 usable edits; .* at least 20"):
        calibrate(tiny, [edits], ["x"] * 50, {})
    with pytest.raises(InputError, match=r"^--locality: 3 prompts; at least 20"):
        calibrate(tiny, [edits, edits, edits, edits], ["x"] * 3, {})
