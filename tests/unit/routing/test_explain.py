"""Explanations of a choice, and pairs of edits that are confused."""

from collections.abc import Callable
from dataclasses import asdict, replace

import pytest
import torch
from torch import Tensor

from scen.errors import ConfigError
from scen.routing.explain import Candidate, Collision, explain, find_collisions
from scen.routing.neurons import Choice, KeyNeurons
from scen.routing.router import Router

MakeKeys = Callable[[int, int], Tensor]


def test_records_say_what_the_gate_saw(router: Router, make_keys: MakeKeys) -> None:
    neurons = KeyNeurons.build(router, make_keys(30, 1))
    choice = neurons.choose(make_keys(3, 2))
    cut = router.cut_at(float(choice.score_BE[1, 1]))
    found = explain(choice, 1, cut, count=4)
    assert [c.index for c in found] == choice.index_BE[1, :4].tolist()
    assert [c.score for c in found] == choice.score_BE[1, :4].tolist()
    assert [c.is_above for c in found] == [True, False, False, False]  # at it is not above it
    for place, candidate in enumerate(found):
        assert list(candidate.similarities) == router.encoder.view_names()
        sim_V = torch.tensor(list(candidate.similarities.values()))
        assert torch.equal(sim_V, choice.sim_BEV[1, place])
        assert abs(float(router.gate(sim_V)) - candidate.score) < 1e-5


def test_a_record_is_plain() -> None:
    candidate = Candidate(3, 0.5, True, {"mean@1.0": 0.25})
    expected = {"index": 3, "score": 0.5, "is_above": True, "similarities": {"mean@1.0": 0.25}}
    assert asdict(candidate) == expected | {"span": ""}


def test_fewer_edits_than_are_wanted(router: Router, make_keys: MakeKeys) -> None:
    choice = KeyNeurons.build(router, make_keys(2, 1)).choose(make_keys(1, 2))
    assert len(explain(choice, 0, router)) == 2
    assert explain(choice, 0, router, count=0) == []


def test_no_edits_need_no_explanation(router: Router) -> None:
    assert explain(Choice.empty(1, 16, 4), 0, router) == []


def test_above_means_what_routing_means(router: Router) -> None:
    """A threshold that float32 cannot hold is rounded, as where prompts are routed."""
    score_BE = torch.tensor([[0.3]])  # 0.3000000119 in float32
    choice = Choice(torch.tensor([[0]]), score_BE, torch.zeros(1, 1, 4))
    assert not bool(score_BE[0, 0] > 0.3)
    assert [c.is_above for c in explain(choice, 0, router.cut_at(0.3))] == [False]


@pytest.fixture
def neurons(router: Router, make_keys: MakeKeys) -> KeyNeurons:
    """Forty edits, of which 3, 17 and 31 are nearly one, and 8 and 9 somewhat alike."""
    key_EKF = make_keys(40, 1)
    key_EKF[[17, 31]] = key_EKF[[3]] + 0.05 * make_keys(2, 5)
    key_EKF[9] = key_EKF[8] + 0.3 * make_keys(1, 6)[0]
    return KeyNeurons.build(router, key_EKF)


def score_pairs(neurons: KeyNeurons) -> Tensor:
    """score_EE of every edit's stored key for every other."""
    encoder = neurons.router.encoder
    code_EKC = neurons.codes.take(torch.arange(len(neurons)), encoder.widths)
    sim_EEV = encoder.compare(code_EKC, code_EKC.expand(len(neurons), -1, -1, -1))
    return neurons.router.gate(sim_EEV)


def pairs(found: list[Collision]) -> list[tuple[int, int]]:
    """Their indices."""
    return [(c.first, c.second) for c in found]


@pytest.mark.parametrize("margin", [0.0, 1.5, 100.0])
def test_they_are_all_pairs_above_the_line(neurons: KeyNeurons, margin: float) -> None:
    score_EE = score_pairs(neurons)
    first_N, second_N = torch.triu_indices(40, 40, offset=1)
    score_N = score_EE[first_N, second_N]
    threshold = float(score_N.sort().values[-5:-3].mean())  # the four worst pairs are above
    cut = replace(neurons, router=neurons.router.cut_at(threshold))
    found = find_collisions(cut, margin, nearest=39)
    order_N = score_N.argsort(descending=True)
    order_N = order_N[score_N[order_N] > threshold - margin]
    expected = list(zip(first_N[order_N].tolist(), second_N[order_N].tolist(), strict=True))
    assert sorted(pairs(found)) == sorted(expected)
    assert len(found) == {0.0: 4, 100.0: 780}.get(margin, len(expected)) >= 4
    ours = torch.tensor([c.score for c in found])
    torch.testing.assert_close(ours, score_N[order_N], rtol=0, atol=1e-5)
    assert (ours.diff() <= 0).all()
    assert sum(c.is_above for c in found) == 4


def test_what_was_planted_comes_first(neurons: KeyNeurons) -> None:
    found = find_collisions(neurons, margin=100.0)
    assert set(pairs(found)[:4]) == {(3, 17), (3, 31), (17, 31), (8, 9)}
    assert pairs(found)[3] == (8, 9)
    assert pairs(find_collisions(neurons, margin=100.0, limit=4)) == pairs(found)[:4]


def test_a_record_holds_what_the_gate_saw(neurons: KeyNeurons) -> None:
    for collision in find_collisions(neurons, margin=100.0, limit=5):
        assert list(collision.similarities) == neurons.router.encoder.view_names()
        sim_V = torch.tensor(list(collision.similarities.values()))
        assert float(neurons.router.gate(sim_V)) == pytest.approx(collision.score, abs=1e-5)
        assert collision.is_above == (collision.score > neurons.router.threshold)


def test_only_near_edits_are_compared(neurons: KeyNeurons) -> None:
    found = find_collisions(neurons, margin=100.0, nearest=1)
    assert len(found) <= 40
    assert (8, 9) in pairs(found)


def test_equal_edits_collide_however_many_there_are(router: Router, make_keys: MakeKeys) -> None:
    key_EKF = make_keys(1, 1).expand(30, -1, -1)
    neurons = KeyNeurons.build(router.cut_at(0.0), key_EKF)
    found = find_collisions(neurons, nearest=4)
    assert {c.first for c in found} | {c.second for c in found} == set(range(30))
    assert all(c.first < c.second for c in found)
    assert len(set(pairs(found))) == len(found)
    assert pairs(found) == sorted(pairs(found))  # equal scores in the order of the edits


def test_many_edits_are_looked_at_in_batches(router: Router, make_keys: MakeKeys) -> None:
    key_EKF = make_keys(600, 1)
    key_EKF[599] = key_EKF[0]
    told: list[int] = []
    neurons = KeyNeurons.build(router, key_EKF)
    found = find_collisions(neurons, margin=100.0, limit=1, progress=told.append)
    assert pairs(found) == [(0, 599)]
    assert told == [256, 256, 88]


@pytest.mark.parametrize("edits", [0, 1])
def test_one_edit_collides_with_none(router: Router, make_keys: MakeKeys, edits: int) -> None:
    assert find_collisions(KeyNeurons.build(router, make_keys(edits, 1)), margin=100.0) == []


@pytest.mark.parametrize("margin", [-0.1, float("nan")])
def test_a_negative_margin_is_refused(neurons: KeyNeurons, margin: float) -> None:
    with pytest.raises(ConfigError, match=r"^margin: .* must be 0 or more$"):
        find_collisions(neurons, margin)
