"""Places are found that separate edits; keys are read at them."""

from dataclasses import replace

import pytest
import torch

from scen.calibration.fit_encoder import RouterKeys
from scen.calibration.fit_router import RouterPlan, cross_encode
from scen.calibration.places import (
    candidate_places,
    choose_places,
    count_trials,
    default_places,
    narrowing,
    read_questions,
)
from scen.calibration.router_set import Question
from scen.model.base import Base
from scen.model.keys import KeyPlace
from scen.routing.keys import read_prompt_keys


@pytest.mark.slow
def test_places_that_are_noise_are_left_out(keys: RouterKeys, plan: RouterPlan) -> None:
    told: list[int] = []
    questions = (replace(question, text="what") for question in keys.about.questions)
    keys = replace(keys, about=replace(keys.about, questions=tuple(questions)))
    found = choose_places(cross_encode(keys, plan), keys, plan, told.append, most=3)
    assert [keys.places[i] for i in found.chosen] == [KeyPlace(1, "mean"), KeyPlace(4, "last")]
    assert [len(step.places) for step in found.steps] == [1, 2, 3]
    alone, both, _ = (step.recall for step in found.steps)
    assert both > 0.9
    assert both > alone + 0.1  # same-subject near misses hold the threshold up
    assert sum(told) == count_trials(keys.places, most=3)


@pytest.mark.slow
def test_each_place_is_told_by_itself(keys: RouterKeys, plan: RouterPlan) -> None:
    found = choose_places(cross_encode(keys, plan), keys, plan, most=1)
    subject, noise = found.top1[KeyPlace(1, "mean")], found.top1[KeyPlace(4, "mean")]
    assert subject > 0.9
    assert noise < 0.3


@pytest.mark.parametrize(("depths", "most", "expected"), [(9, 6, 84), (2, 6, 8), (2, 1, 2)])
def test_trials_are_counted_before_they_run(depths: int, most: int, expected: int) -> None:
    places = [KeyPlace(d, kind) for d in range(depths) for kind in ("span", "last")]
    assert count_trials(places, most) == expected


@pytest.mark.parametrize(("layers", "first", "last"), [(30, 3, 27), (32, 3, 29), (6, 1, 5)])
def test_candidates_are_at_every_tenth_of_the_depth(layers: int, first: int, last: int) -> None:
    places = candidate_places(layers)
    depths = [place.layer for place in places if place.kind == "span"]
    assert (depths[0], depths[-1]) == (first, last)
    assert depths == sorted(set(depths))
    assert len(places) == 2 * len(depths) == len(set(places))


def test_narrow_keys_are_read_as_they_are(tiny: Base) -> None:
    places = (KeyPlace(1, "mean"), KeyPlace(4, "last"))
    texts = [f"Who founded {'a' * i}?" for i in range(1, 40)]
    questions = [Question(text, "prompt", i, "prompt") for i, text in enumerate(texts)]
    assert narrowing(2048) is None
    told: list[int] = []
    found = read_questions(tiny, places, questions, None, told.append)
    assert torch.equal(found.key_MKF, read_prompt_keys(tiny, places, texts))
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
    questions = [Question(text, "prompt", i, "prompt") for i, text in enumerate(texts)]
    found_NKG = read_questions(tiny, places, questions, projection_FG).key_MKF
    torch.testing.assert_close(found_NKG.float(), wide_NKF @ projection_FG, rtol=2e-3, atol=2e-3)


def test_all_spans_are_read_in_their_order(tiny: Base) -> None:
    places = (KeyPlace(1, "span"), KeyPlace(4, "last"))
    questions = [
        Question("Hello there! Who founded Oslo?", "asked", 0, "greeting"),
        Question("Who founded Oslo?", "prompt", 0, "prompt"),
        Question("WHO FOUNDED OSLO?", "asked", 0, "UPPER CASE"),
    ]
    found = read_questions(tiny, places, questions, None)
    spans = list(zip(found.row_M.tolist(), found.span_M.tolist(), found.texts, strict=True))
    assert spans == [
        (0, 0, "Hello there! Who founded Oslo"),
        (0, 1, "Hello there"),
        (0, 2, "Who founded Oslo"),
        (1, 0, "Who founded Oslo"),
        (2, 0, "who founded oslo"),
    ]
    assert (found.share_M[[0, 3, 4]] == 1).all()
    assert (found.share_M[[1, 2]] < 1).all()


@pytest.mark.parametrize("layers", [2, 6, 30, 80])
def test_the_default_places_are_in_the_base_and_read_sentences(layers: int) -> None:
    places = default_places(layers)
    assert {place.kind for place in places} == {"span", "last"}
    assert all(0 < place.layer < layers for place in places)
    assert len(set(places)) == len(places)
    assert [p.layer for p in places] == sorted(p.layer for p in places)
