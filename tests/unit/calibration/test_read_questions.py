"""Keys of questions are read at all depths, and narrowed without losing their geometry."""

import pytest
import torch

from scen.base.load import Base
from scen.calibration.read_questions import candidate_places, narrowing, read_questions
from scen.editor.keys import KeyPlace
from scen.routing.prompt_keys import read_prompt_keys


@pytest.mark.parametrize(("layers", "first", "last"), [(30, 3, 27), (32, 3, 29), (6, 1, 5)])
def test_candidates_are_at_every_tenth_of_the_depth(layers: int, first: int, last: int) -> None:
    places = candidate_places(layers)
    depths = [place.layer for place in places if place.kind == "mean"]
    assert (depths[0], depths[-1]) == (first, last)
    assert depths == sorted(set(depths))
    assert len(places) == 2 * len(depths) == len(set(places))


def test_narrow_keys_are_read_as_they_are(tiny: Base) -> None:
    places = (KeyPlace(1, "mean"), KeyPlace(4, "last"))
    texts = [f"Who founded {'a' * i}?" for i in range(1, 40)]
    assert narrowing(2048) is None
    told: list[int] = []
    key_NKF = read_questions(tiny, places, texts, None, told.append)
    assert torch.equal(key_NKF, read_prompt_keys(tiny, places, texts))
    assert sum(told) == len(texts)


def test_wide_keys_keep_their_cosines(tiny: Base) -> None:
    projection_FG = narrowing(4096)
    assert projection_FG is not None
    assert projection_FG.shape == (4096, 2048)
    key_NF = torch.randn(30, 4096, generator=torch.Generator().manual_seed(0))
    narrow_NG = torch.nn.functional.normalize(key_NF @ projection_FG, dim=1)
    wide_NF = torch.nn.functional.normalize(key_NF, dim=1)
    assert (narrow_NG @ narrow_NG.T - wide_NF @ wide_NF.T).abs().max() < 0.12


def test_a_projection_is_applied_to_every_key(tiny: Base) -> None:
    places = (KeyPlace(1, "mean"), KeyPlace(4, "last"))
    projection_FG = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    texts = ["Who founded Oslo?", "Where is Ghent?"]
    wide_NKF = read_prompt_keys(tiny, places, texts).float()
    found_NKG = read_questions(tiny, places, texts, projection_FG)
    torch.testing.assert_close(found_NKG.float(), wide_NKF @ projection_FG, rtol=2e-3, atol=2e-3)
