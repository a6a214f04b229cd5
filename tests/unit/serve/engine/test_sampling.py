"""Tokens are drawn as the temperature and top_p say."""

from collections import Counter

import pytest
import torch

from scen_serve.engine.decoding import adjust_logits, choose_token, new_generator, token_logprob
from scen_serve.engine.request import Sampling

PROBABILITY_V = torch.tensor([0.05, 0.6, 0.05, 0.3])
LOGITS_V = PROBABILITY_V.log()


def counts(sampling: Sampling, times: int = 2000) -> Counter[int]:
    generator = new_generator(sampling)
    return Counter(choose_token(LOGITS_V, sampling, generator) for _ in range(times))


def test_greedy_draws_nothing() -> None:
    assert new_generator(Sampling()) is None
    assert counts(Sampling(), 3) == {1: 3}


def test_temperature_one_draws_as_the_model_says() -> None:
    found = counts(Sampling(temperature=1.0, seed=0))
    assert [found[i] / 2000 for i in range(4)] == pytest.approx(PROBABILITY_V.tolist(), abs=0.03)


def test_a_low_temperature_sharpens() -> None:
    assert counts(Sampling(temperature=0.05, seed=0))[1] == 2000


@pytest.mark.parametrize("temperature", [1e-12, 1.9e-180, 5e-324])
def test_the_lowest_temperatures_are_greedy(temperature: float) -> None:
    assert counts(Sampling(temperature=temperature, seed=0), 20) == {1: 20}


@pytest.mark.parametrize(("top_p", "left"), [(0.5, {1}), (0.61, {1, 3}), (0.89, {1, 3})])
def test_top_p_keeps_the_smallest_set_that_holds_it(top_p: float, left: set[int]) -> None:
    assert set(counts(Sampling(temperature=1.0, top_p=top_p, seed=0))) == left


def test_log_probabilities_do_not_depend_on_the_temperature() -> None:
    found = token_logprob(LOGITS_V, 3, 2)
    assert found.logprob == pytest.approx(float(PROBABILITY_V[3].log()))
    assert [token for token, _ in found.top] == [1, 3]
    assert token_logprob(LOGITS_V, 3, 0).top == ()


@pytest.mark.parametrize(("top_k", "left"), [(1, {1}), (2, {1, 3}), (9, {0, 1, 2, 3})])
def test_top_k_keeps_the_most_likely(top_k: int, left: set[int]) -> None:
    assert set(counts(Sampling(temperature=1.0, top_k=top_k, seed=0))) == left


@pytest.mark.parametrize(("min_p", "left"), [(0.05, {0, 1, 2, 3}), (0.4, {1, 3}), (1.0, {1})])
def test_min_p_is_a_share_of_the_most_likely(min_p: float, left: set[int]) -> None:
    assert set(counts(Sampling(temperature=1.0, min_p=min_p, seed=0))) == left


def test_top_p_is_a_share_of_what_top_k_left() -> None:
    """Of tokens 1 and 3 the first holds two thirds."""
    sampling = Sampling(temperature=1.0, top_k=2, top_p=0.65, seed=0)
    assert set(counts(sampling)) == {1}


def adjusted(sampling: Sampling, prompt: list[int], output: list[int]) -> list[float]:
    logits_V = torch.tensor([2.0, -1.0, 0.5, 0.0])
    found = adjust_logits(logits_V, sampling, prompt, output, frozenset({3}))
    assert logits_V.tolist() == [2.0, -1.0, 0.5, 0.0]  # the row's own are left alone
    return found.tolist()


def test_the_repetition_penalty_counts_prompt_and_answer() -> None:
    """Likely tokens are divided by it and unlikely ones multiplied (arXiv 1909.05858)."""
    assert adjusted(Sampling(repetition_penalty=2.0), [0], [1]) == [1.0, -2.0, 0.5, 0.0]


def test_presence_and_frequency_count_the_answer_only() -> None:
    assert adjusted(Sampling(presence_penalty=0.5), [2], [0, 0, 1]) == [1.5, -1.5, 0.5, 0.0]
    assert adjusted(Sampling(frequency_penalty=0.5), [2], [0, 0, 1]) == [1.0, -1.5, 0.5, 0.0]
    assert adjusted(Sampling(frequency_penalty=0.5), [2], []) == [2.0, -1.0, 0.5, 0.0]


def test_a_bias_is_added() -> None:
    assert adjusted(Sampling(logit_bias=((0, -100.0), (3, 5.0))), [], []) == [-98, -1, 0.5, 5]


def test_no_end_before_min_tokens() -> None:
    sampling = Sampling(min_tokens=2, stop_token_ids=(0,))
    nothing = float("-inf")
    assert adjusted(sampling, [], [2]) == [nothing, -1.0, 0.5, nothing]
    assert adjusted(sampling, [], [2, 2]) == [2.0, -1.0, 0.5, 0.0]


def test_without_options_the_logits_are_the_model_s_own() -> None:
    assert adjust_logits(LOGITS_V, Sampling(temperature=1.0), [0], [1], frozenset()) is LOGITS_V
