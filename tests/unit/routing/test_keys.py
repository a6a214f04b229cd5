"""Keys are read in batches of like length, and come back in the order of their prompts."""

import pytest
import torch

from scen.model.base import Base
from scen.model.keys import KeyPlace
from scen.records import Edit
from scen.routing.keys import read_prompt_keys

PLACES = (KeyPlace(1, "mean"), KeyPlace(4, "last"))


@pytest.mark.parametrize("batch_size", [1, 2, 4, 64])
def test_keys_are_those_of_each_prompt_alone(
    tiny: Base, edits: list[Edit], batch_size: int
) -> None:
    prompts = [edit.prompt for edit in edits]
    assert sorted(prompts, key=len) != prompts
    key_NKF = read_prompt_keys(tiny, PLACES, prompts, batch_size)
    assert (key_NKF.shape, key_NKF.dtype) == ((6, 2, 64), torch.float16)
    assert (key_NKF[0] - key_NKF[1]).abs().max() > 0.1
    for row, prompt in enumerate(prompts):
        alone_1KF = read_prompt_keys(tiny, PLACES, [prompt], 1)
        torch.testing.assert_close(key_NKF[row], alone_1KF[0], rtol=2**-10, atol=1e-4)


def test_progress_is_told_of_every_prompt(tiny: Base, edits: list[Edit]) -> None:
    told: list[int] = []
    read_prompt_keys(tiny, PLACES, [edit.prompt for edit in edits], 4, told.append)
    assert told == [4, 2]
