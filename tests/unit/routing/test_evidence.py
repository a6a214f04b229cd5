"""What the gate sees beside similarities, and how a message with many parts is routed by it."""

from dataclasses import replace

import pytest
import torch

from scen.model.keys import KeyPlace, SpanKeys
from scen.routing.gate import Evidence, Gate, around, input_columns, manner_begin, share_among
from scen.routing.neurons import Choice, KeyNeurons, best_spans
from scen.routing.router import Router
from scen.routing.words import NUM_FIGURES, names_in_part

PLACES = (KeyPlace(1, "span"), KeyPlace(4, "last"))


@pytest.fixture
def spans() -> SpanKeys:
    """Two messages: one of two halves, and one that is one part; 3 numbers at two places."""
    key_MKF = torch.zeros(4, 2, 3)
    key_MKF[:, 0] = torch.tensor([[2.0, 2, 2], [1, 1, 1], [3, 3, 3], [5, 5, 5]])
    key_MKF[:, 1] = torch.tensor([[7.0, 0, 0]] * 3 + [[9.0, 0, 0]])
    row_M, span_M = torch.tensor([0, 0, 0, 1]), torch.tensor([0, 1, 2, 0])
    share_M = torch.tensor([1, 0.5, 0.5, 1])
    texts = ("Hello. Who is it", "Hello", "Who is it", "Why")
    return SpanKeys(key_MKF, row_M, span_M, share_M, texts)


@pytest.fixture
def evidence() -> Evidence:
    matrix_KFD = torch.eye(3)[:, :2].repeat(2, 1, 1)
    return Evidence(torch.zeros(2, 3), matrix_KFD, torch.ones(4), torch.ones(8192).half())


def test_what_stands_around_a_part_is_the_rest_of_its_message(spans: SpanKeys) -> None:
    whole_MKF = spans.key_MKF[[0, 0, 0, 3]]
    found = around(spans.key_MKF, whole_MKF, spans.share_M, PLACES)
    torch.testing.assert_close(found[1, 0], torch.full((3,), 3.0))
    torch.testing.assert_close(found[2, 0], torch.full((3,), 1.0))
    assert torch.equal(found[:, 1], spans.key_MKF[:, 1])


def test_a_word_is_as_common_as_either_of_two_knows_it(evidence: Evidence) -> None:
    own_H, other_H = torch.ones(8192).half(), torch.ones(8192).half()
    own_H[0], own_H[1], other_H[1], other_H[2] = 0.5, 0.25, 0.75, 0.125
    both = replace(evidence, rarity_H=own_H).with_common_words(replace(evidence, rarity_H=other_H))
    assert both.rarity_H[:4].tolist() == [0.5, 0.25, 0.125, 1]
    assert both.rarity_H.dtype == torch.half
    assert both.matrix_KFD is evidence.matrix_KFD


def test_a_whole_message_has_nothing_around_it(spans: SpanKeys, evidence: Evidence) -> None:
    manner_MG = evidence.manner(spans, PLACES)
    assert manner_MG.shape == (4, 4)
    assert torch.equal(manner_MG[[0, 3], :2], torch.zeros(2, 2))
    torch.testing.assert_close(manner_MG[1:3, 0], torch.tensor([3.0, 1.0]))
    assert manner_MG[:, 2].tolist() == [7, 7, 7, 9]


def test_the_inputs_of_some_places_are_columns_of_those_of_all(evidence: Evidence) -> None:
    draw = torch.Generator().manual_seed(0)
    sim_MEV = torch.rand(5, 3, 6, generator=draw)  # three places of two views
    words_MEL = torch.rand(5, 3, NUM_FIGURES, generator=draw)
    share_M, manner_MG = torch.rand(5, generator=draw), torch.rand(5, 12, generator=draw)
    every = evidence.inputs(sim_MEV, words_MEL, share_M, manner_MG)
    sims, manners = sim_MEV[..., [0, 1, 4, 5]], manner_MG[:, [0, 1, 2, 3, 8, 9, 10, 11]]
    some = evidence.inputs(sims, words_MEL, share_M, manners)
    assert torch.equal(every[..., input_columns([0, 2], 3, 2, 4)], some)
    for x_MEI, manner in ((every, manner_MG), (some, manners)):
        begin = manner_begin(x_MEI.shape[-1], 2, 4)
        assert torch.equal(x_MEI[:, 0, begin:], manner)
    assert (every[..., 6:12] - (1 - sim_MEV).sqrt()).abs().max() < 0.04


def test_evidence_survives_as_tensors(evidence: Evidence, router: Router) -> None:
    known = replace(router, evidence=evidence)
    again = Router.from_tensors(known.tensors())
    assert again.evidence is not None
    ours, theirs = known.tensors(), again.tensors()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert Router.from_tensors(router.tensors()).evidence is None


def test_evidence_of_earlier_releases_has_fewer_word_features(evidence: Evidence) -> None:
    tensors = evidence.tensors()
    del tensors["figures"]
    before = Evidence.from_tensors(tensors)
    ours, theirs = (e.words(["Who is Maria Takada?"], [["Who is Maria Tolnai?"]])
                    for e in (evidence, before))  # fmt: skip
    assert theirs.shape == (1, 1, 10)
    assert torch.equal(ours[..., :10], theirs)


@pytest.fixture
def wise(router: Router, evidence: Evidence) -> Router:
    """A router that goes by the share of the edit's words only."""
    places = len(router.encoder.places)
    narrow = replace(
        evidence,
        mean_KF=torch.zeros(places, 24),
        matrix_KFD=torch.zeros(places, 24, 2),
        plain_G=torch.zeros(2 * places),
    )
    inputs = 2 * router.encoder.num_views + NUM_FIGURES + 1 + 2 * places
    gate = Gate.mean(inputs)
    gate.direct_V[:] = 0
    gate.direct_V[2 * router.encoder.num_views] = 1
    return replace(router, gate=gate, evidence=narrow)


def test_words_decide_where_keys_do_not(wise: Router) -> None:
    """Two edits with one key: the one whose number stands in the question speaks."""
    key_KF = torch.randn(len(wise.encoder.places), 24, generator=torch.Generator().manual_seed(0))
    texts = ["Who won in 1987?", "Who won in 1988?"]
    neurons = KeyNeurons.build(wise, torch.stack([key_KF, key_KF]), texts)
    for index, text in enumerate(texts):
        assert neurons.choose(key_KF[None], texts=[text]).index_BE[0, 0] == index
        code_BKC = neurons.code(torch.tensor([index]))
        assert neurons.choose_by_code(code_BKC, texts=[text]).index_BE[0, 0] == index


def test_part_of_a_name_that_several_bear_asks_for_none_of_them(wise: Router) -> None:
    key_KF = torch.randn(len(wise.encoder.places), 24, generator=torch.Generator().manual_seed(0))
    edits = ["Where lives Maria Takada?", "Where lives Bert Takada?"]

    def score(text: str, count: int) -> float:
        neurons = KeyNeurons.build(wise, key_KF.repeat(count, 1, 1), edits[:count])
        return float(neurons.choose(key_KF[None], texts=[text]).score_BE[0, 0])

    alone = score("Where lives Takada?", 1)
    assert 0.5 < alone < 1
    assert score("Where lives Takada?", 2) < 0
    assert score(edits[0], 2) == score(edits[0], 1) == 1
    assert score("Where lives Mria Takada?", 2) == score("Where lives Mria Takada?", 1)


def test_scores_of_exclusive_candidates() -> None:
    score_ME = torch.tensor([[2.0, 1.0, -torch.inf], [3.0, -torch.inf, -torch.inf]])
    is_part_ME = torch.tensor([[True, False, True], [True, True, True]])
    shared = share_among(score_ME, is_part_ME)
    asked = torch.tensor(2.0).exp() / (1 + torch.tensor(1.0).exp())  # odds against all others
    torch.testing.assert_close(shared[0, 0], asked.log())
    assert shared[0, 1] == 1
    assert shared[0, 2] == -torch.inf
    assert shared[1].tolist() == [3, -torch.inf, -torch.inf]
    assert not bool(names_in_part(torch.ones(2, 3, 10)).any())


def test_the_best_part_of_each_message_counts() -> None:
    index_ME = torch.tensor([[4, 2], [2, 4], [1, 0], [3, -1]])
    score_ME = torch.tensor([[0.5, 0.1], [0.9, 0.8], [0.7, 0.6], [0.2, -torch.inf]])
    choice = Choice(index_ME, score_ME, torch.zeros(4, 2, 1))
    best = best_spans(choice, torch.tensor([0, 0, 1, 2]), 3)
    assert best.index_B2.tolist() == [[2, 4], [1, 0], [3, -1]]
    torch.testing.assert_close(best.score_B2[:2], torch.tensor([[0.9, 0.8], [0.7, 0.6]]))
    assert best.at_B.tolist() == [1, 2, 3]
