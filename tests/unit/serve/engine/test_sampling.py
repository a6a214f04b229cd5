"""Tokens are drawn as the temperature and top_p say."""

from collections import Counter

import pytest
import torch

from scen_serve.engine.request import Sampling
from scen_serve.engine.sampling import choose_token, new_generator, token_logprob

CHANCE_V = torch.tensor([0.05, 0.6, 0.05, 0.3])
LOGITS_V = CHANCE_V.log()


def counts(sampling: Sampling, times: int = 2000) -> Counter[int]:
    draw = new_generator(sampling)
    return Counter(choose_token(LOGITS_V, sampling, draw) for _ in range(times))


def test_greedy_draws_nothing() -> None:
    assert new_generator(Sampling()) is None
    assert counts(Sampling(), 3) == {1: 3}


def test_temperature_one_draws_as_the_model_says() -> None:
    found = counts(Sampling(temperature=1.0, seed=0))
    assert [found[i] / 2000 for i in range(4)] == pytest.approx(CHANCE_V.tolist(), abs=0.03)


def test_a_low_temperature_sharpens() -> None:
    assert counts(Sampling(temperature=0.05, seed=0))[1] == 2000


@pytest.mark.parametrize("temperature", [1e-12, 1.9e-180, 5e-324])
def test_the_lowest_temperatures_are_greedy(temperature: float) -> None:
    assert counts(Sampling(temperature=temperature, seed=0), 20) == {1: 20}


@pytest.mark.parametrize(("top_p", "left"), [(0.5, {1}), (0.61, {1, 3}), (0.89, {1, 3})])
def test_top_p_keeps_the_smallest_set_that_holds_it(top_p: float, left: set[int]) -> None:
    assert set(counts(Sampling(temperature=1.0, top_p=top_p, seed=0))) == left


def test_chances_do_not_depend_on_the_temperature() -> None:
    found = token_logprob(LOGITS_V, 3, 2)
    assert found.logprob == pytest.approx(float(CHANCE_V[3].log()))
    assert [token for token, _ in found.top] == [1, 3]
    assert token_logprob(LOGITS_V, 3, 0).top == ()
