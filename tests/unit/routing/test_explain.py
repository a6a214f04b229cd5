"""An explanation says what the gate saw, and nothing of rows without an edit."""

from collections.abc import Callable
from dataclasses import asdict

import torch
from torch import Tensor

from scen.routing.explain import Candidate, explain
from scen.routing.key_neurons import Choice, KeyNeurons
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
    assert explain(Choice.nothing(1, 16, 4), 0, router) == []


def test_above_means_what_routing_means(router: Router) -> None:
    """A threshold that float32 cannot hold is rounded, as where prompts are routed."""
    score_BE = torch.tensor([[0.3]])  # 0.3000000119 in float32
    choice = Choice(torch.tensor([[0]]), score_BE, torch.zeros(1, 1, 4))
    assert not bool(score_BE[0, 0] > 0.3)
    assert [c.is_above for c in explain(choice, 0, router.cut_at(0.3))] == [False]
