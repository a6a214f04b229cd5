"""Keys are read in batches of like length, and come back in the order of their prompts."""

import pytest
import torch

from scen.base.load import Base
from scen.editor.neurons import KeyPlace
from scen.records import Edit
from scen.snapshot.whiten import fit_whitening, read_prompt_keys

PLACES = (KeyPlace(1, "mean"), KeyPlace(4, "last"))


@pytest.mark.parametrize("batch_size", [1, 2, 4, 64])
def test_keys_are_those_of_each_prompt_alone(
    tiny: Base, edits: list[Edit], batch_size: int
) -> None:
    prompts = [edit.prompt for edit in edits]
    assert sorted(prompts, key=len) != prompts
    key_NKF = read_prompt_keys(tiny, PLACES, prompts, batch_size)
    assert (key_NKF.shape, key_NKF.dtype) == ((6, 2, 64), torch.float32)
    for row, prompt in enumerate(prompts):
        alone_1KF = read_prompt_keys(tiny, PLACES, [prompt], 1)
        torch.testing.assert_close(key_NKF[row], alone_1KF[0], rtol=0, atol=1e-4)


def test_a_whitening_spreads_what_lay_together(tiny: Base, neutral: list[str]) -> None:
    key_NKF = read_prompt_keys(tiny, PLACES, neutral, 4)
    raw_NKF = torch.nn.functional.normalize(key_NKF, dim=-1)
    white_NKF = fit_whitening(tiny, PLACES, neutral, 0.1)(key_NKF)
    apart = ~torch.eye(len(neutral), dtype=torch.bool)
    for raw_NF, white_NF in zip(raw_NKF.unbind(1), white_NKF.unbind(1), strict=True):
        assert (raw_NF @ raw_NF.T)[apart].mean() > 0.2
        assert (white_NF @ white_NF.T)[apart].mean() < 0
