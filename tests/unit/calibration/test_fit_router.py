"""Cross-fitted routers on synthetic keys; the bound that is chosen where none is given."""

import math
from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor

from scen.calibration.fit_encoder import EncoderPlan, RouterKeys, fit_encoder
from scen.calibration.fit_gate import pair_up
from scen.calibration.fit_router import (
    HeldOut,
    RouterPlan,
    choose_bound,
    cross_encode,
    fit_router,
    hard_negatives,
    score_folds,
)
from scen.calibration.router_set import Question, QuestionKind, RouterSet
from scen.errors import ConfigError, InputError
from scen.model.keys import KeyPlace
from scen.routing.neurons import KeyNeurons
from scen.routing.router import NEGATIVES, Router, conformal_threshold

pytestmark = pytest.mark.slow

PLACES = (KeyPlace(1, "mean"), KeyPlace(4, "last"))
RELATIONS, WIDTH = 6, 40
SCALE = 1 / math.sqrt(WIDTH)
BOUND = 0.05
PLAN = RouterPlan(EncoderPlan(16, 16, 8, 8), bound=BOUND, gate_steps=60, num_gates=2)


@dataclass
class World:
    """Draws edits and the keys of questions about them."""

    seed: int = 0
    draw: torch.Generator = field(default_factory=torch.Generator)

    def __post_init__(self) -> None:
        fixed = torch.Generator().manual_seed(99)
        self.relation_RF = torch.randn(RELATIONS, WIDTH, generator=fixed)
        self.mix_KFF = torch.randn(2, WIDTH, WIDTH, generator=fixed) * SCALE
        self.loud_KF = 3 * torch.randn(2, WIDTH, generator=fixed) * SCALE
        self.draw.manual_seed(self.seed)

    def key(self, subject_F: Tensor, relation: int, noise: float) -> Tensor:
        """key_KF of one wording."""
        meaning_F = subject_F + self.relation_RF[relation]
        wording_KF = noise * torch.randn(2, WIDTH, generator=self.draw)
        loud_K1 = torch.randn(2, 1, generator=self.draw)
        return 5 + meaning_F @ self.mix_KFF + wording_KF + loud_K1 * self.loud_KF

    def questions(self, edits: int, unrelated: int = 20) -> RouterKeys:
        """Of each edit its prompt, two rephrases, a near miss given and two made."""
        subject_EF = torch.randn(edits, WIDTH, generator=self.draw)
        relation_E = torch.randint(RELATIONS, (edits,), generator=self.draw).tolist()
        rows: list[tuple[Question, Tensor]] = []

        def ask(kind: QuestionKind, edit: int, relation: int, noise: float = 0.5) -> None:
            subject_F = torch.randn(WIDTH, generator=self.draw) if edit < 0 else subject_EF[edit]
            number = edit if edit >= 0 else len(rows)  # of the subject
            wording = int(torch.randint(50, (1,), generator=self.draw))
            text = f"w{wording}w r{relation}r of s{number}s?"
            question = Question(text, kind, edit, "drawn", edit >= 0)
            rows.append((question, self.key(subject_F, relation, noise)))

        for i in range(edits):
            ask("prompt", i, relation_E[i])
        for i in range(edits):
            ask("rephrase", i, relation_E[i])
            ask("rephrase", i, relation_E[i])
            for kind, step in (("near_miss", 1), ("made_near_miss", 2), ("made_near_miss", 3)):
                ask(kind, i, (relation_E[i] + step) % RELATIONS)  # type: ignore[arg-type]
        for _ in range(unrelated):
            ask("unrelated", -1, int(torch.randint(RELATIONS, (1,), generator=self.draw)), 1.0)
        about = RouterSet(tuple(q for q, _ in rows), tuple(relation_E))
        return RouterKeys(about, PLACES, torch.stack([key for _, key in rows]).half())


@pytest.fixture(scope="module")
def keys() -> RouterKeys:
    return World(0).questions(80)


@pytest.fixture(scope="module")
def fresh() -> RouterKeys:
    """Edits that no router saw."""
    return World(1).questions(200)


@pytest.fixture(scope="module")
def fitted(keys: RouterKeys) -> tuple[Router, HeldOut]:
    return fit_router(keys, PLAN)


def outcome(router: Router, fresh: RouterKeys) -> tuple[float, dict[str, float]]:
    """The share of fresh rephrases that reach their edit, and false activation by kind; `same kind`
    are prompts and rephrases whose own edit is taken away."""
    count = fresh.about.num_edits
    neurons = KeyNeurons.build(router, fresh.key_NKF[:count].float(), fresh.about.texts[:count])
    choice = neurons.choose(fresh.key_NKF.float(), texts=fresh.about.texts)
    is_own_NE = choice.index_BE == fresh.edit_N[:, None]
    above_N = choice.score_BE[:, 0] > router.threshold
    found_N = above_N & is_own_NE[:, 0]
    kinds = ("near_miss", "made_near_miss", "unrelated")
    false = {kind: float(above_N[fresh.of(kind)].float().mean()) for kind in kinds}
    other_N = choice.score_BE.masked_fill(is_own_NE, -torch.inf).amax(1) > router.threshold
    false["same kind"] = float(other_N[fresh.of("prompt", "rephrase")].float().mean())
    return float(found_N[fresh.of("rephrase")].float().mean()), false


def test_fresh_edits_are_found_and_the_bound_is_kept(
    fitted: tuple[Router, HeldOut], fresh: RouterKeys
) -> None:
    found, false = outcome(fitted[0], fresh)
    assert found > 0.9
    assert max(false.values()) < BOUND + 0.03  # three standard errors of 200


def test_scores_of_what_was_seen_would_promise_too_much(
    keys: RouterKeys, fresh: RouterKeys
) -> None:
    """The reason for cross-fitting: encoder, gate and threshold all from the same questions. Keys
    alone decide here, since words are not fitted."""
    plan = replace(PLAN, has_evidence=False)
    router = fit_router(keys, plan)[0]
    rows_N = torch.arange(len(keys.key_NKF))
    pairs = pair_up(keys, router.encoder, None, rows_N).gate
    gate = plan.gate(pairs)
    other_N = pairs.best(gate)[1]
    negative_N, kind_N = hard_negatives(keys, HeldOut(rows_N, other_N, other_N))
    threshold = conformal_threshold(negative_N, kind_N, BOUND)
    assert threshold < router.threshold - 0.3
    seen = replace(router, gate=gate, threshold=threshold)
    false = outcome(seen, fresh)[1]
    assert min(false["near_miss"], false["made_near_miss"], false["same kind"]) > 1.5 * BOUND


def test_the_threshold_rests_on_the_held_out_negatives(
    fitted: tuple[Router, HeldOut], keys: RouterKeys
) -> None:
    router, held = fitted
    negative_N, kind_N = hard_negatives(keys, held)
    assert torch.equal(router.negative_N, negative_N)
    assert torch.equal(router.kind_N, kind_N)
    assert router.threshold == conformal_threshold(negative_N, kind_N, BOUND)
    assert router.bound == BOUND
    counts = dict(zip(NEGATIVES, kind_N.bincount().tolist(), strict=False))
    assert counts == {"same kind": 240, "near miss": 80, "made near miss": 160}


def test_every_question_is_held_out_once(fitted: tuple[Router, HeldOut], keys: RouterKeys) -> None:
    held = fitted[1]
    about_N = keys.edit_N >= 0
    times_N = held.rows_N.bincount(minlength=len(about_N))
    assert (times_N[about_N] == 1).all()
    assert (times_N[~about_N] == PLAN.folds).all()  # unrelated ones are about no fold
    finite_N = held.own_N.isfinite()
    assert (held.own_N[finite_N] > held.other_N[finite_N]).all()
    assert not finite_N[~keys.of("prompt", "rephrase")[held.rows_N]].any()
    assert finite_N[keys.of("rephrase")[held.rows_N]].float().mean() > 0.9


def test_the_parts_that_score_an_edit_never_saw_it(keys: RouterKeys) -> None:
    """Other keys for the questions about one fold's edits change nothing for the other fold's
    encoder, nor for the gate that scores the first fold."""
    fold_E = torch.arange(keys.about.num_edits) % 2
    about_first_N = (keys.edit_N >= 0) & (fold_E[keys.edit_N.clamp_min(0)] == 0)
    noise_NKF = torch.randn(keys.key_NKF.shape, generator=torch.Generator().manual_seed(5))
    changed_NKF = torch.where(about_first_N[:, None, None], noise_NKF.half(), keys.key_NKF)
    changed = RouterKeys(keys.about, keys.places, changed_NKF)
    ours, theirs = (fit_encoder(k, fold_E == 1, PLAN.encoder).tensors() for k in (keys, changed))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert not torch.equal(
        ours["matrix"], fit_encoder(changed, fold_E == 0, PLAN.encoder).tensors()["matrix"]
    )
    folds = cross_encode(keys, PLAN)
    held = score_folds(folds, PLAN)
    expected_N = folds.pairs[0].best(PLAN.gate(folds.pairs[1]))[1]
    assert torch.equal(held.other_N[: len(expected_N)], expected_N)


def test_the_same_questions_give_the_same_router(
    fitted: tuple[Router, HeldOut], keys: RouterKeys
) -> None:
    told: list[int] = []
    again = fit_router(keys, PLAN, told.append)[0].tensors()
    assert told == [1] * (PLAN.folds + 2)
    assert all(torch.equal(tensor, again[name]) for name, tensor in fitted[0].tensors().items())


def test_a_prior_gives_its_gate_and_its_common_words(
    keys: RouterKeys, fitted: tuple[Router, HeldOut]
) -> None:
    prior, _ = fitted
    assert prior.evidence is not None
    common_H = prior.evidence.rarity_H * 0.5
    prior = replace(prior, evidence=replace(prior.evidence, rarity_H=common_H))
    router, _ = fit_router(keys, replace(PLAN, prior=prior))
    assert router.evidence is not None
    assert torch.equal(router.evidence.rarity_H, common_H)  # of the same questions
    assert not torch.equal(router.gate.direct_V, prior.gate.direct_V)  # it is tuned
    tuned, fresh = (
        float((gate.direct_V - prior.gate.direct_V).abs().mean())
        for gate in (router.gate, fit_router(keys, replace(PLAN, seed=9))[0].gate)
    )
    assert tuned < fresh


def test_a_pair_has_its_own_edit_among_the_candidates(keys: RouterKeys) -> None:
    """Even where the search would not find it: here it looks at nothing that tells edits apart."""
    encoder = fit_encoder(keys, torch.ones(80, dtype=torch.bool), PLAN.encoder)
    blind = encoder.searching_by(torch.full_like(encoder.search_JD, 1.0))
    rows_N = torch.arange(len(keys.key_NKF))
    pairs = pair_up(keys, blind, None, rows_N)
    asks_N = keys.of("prompt", "rephrase")
    assert torch.equal(pairs.gate.own_NE.sum(1), asks_N.long())
    assert torch.equal(pairs.index_NE[pairs.gate.own_NE], keys.edit_N[asks_N])
    found_N = (pair_up(keys, encoder, None, rows_N).index_NE == keys.edit_N[:, None]).any(1)
    assert found_N[keys.of("rephrase")].all()


def test_the_search_key_tells_edits_apart(keys: RouterKeys, fresh: RouterKeys) -> None:
    """The fitted projection of the first views keeps, on fresh edits, who is nearest to whom."""
    plan = EncoderPlan(edit=40, general=8, subject=8, relation=8)
    encoder = fit_encoder(keys, torch.ones(80, dtype=torch.bool), plan)
    code_NKC = encoder(fresh.key_NKF)
    asks_N = fresh.of("rephrase")

    def found(key_ND: Tensor) -> float:
        near_N = (key_ND[asks_N] @ key_ND[:200].T).topk(16).indices
        return float((near_N == fresh.edit_N[asks_N, None]).any(1).float().mean())

    assert found(encoder.search_key(code_NKC)) >= found(encoder.first_views(code_NKC)) - 0.01
    assert found(encoder.search_key(code_NKC)) > 0.99


def test_too_few_edits_are_refused() -> None:
    with pytest.raises(InputError, match=r"^--edits: 19 usable edits; .* at least 20$"):
        fit_router(World(2).questions(19), PLAN)


def test_a_bound_beyond_the_sample_is_refused() -> None:
    plan = RouterPlan(PLAN.encoder, bound=0.001, gate_steps=1)
    with pytest.raises(ConfigError, match=r"^router\.max_false_activation: 0\.001 needs"):
        fit_router(World(2).questions(20), plan)


def test_a_bound_that_nobody_asked_for_is_chosen(keys: RouterKeys) -> None:
    router, held = fit_router(keys, replace(PLAN, bound=None))
    own_N = held.own_N[keys.of("rephrase")[held.rows_N]]
    assert router.bound == choose_bound(own_N, router.negative_N, router.kind_N)
    assert router.threshold == conformal_threshold(
        router.negative_N, router.kind_N, router.bound or 0
    )


KIND_N = torch.zeros(1000, dtype=torch.long)


def negatives() -> torch.Tensor:
    """Scores 0, 1 .. 999, so that the bound b has its threshold at 1000 (1 - b)."""
    return torch.arange(1000.0)


def test_rephrases_far_above_all_negatives_cost_nothing() -> None:
    assert choose_bound(torch.full((100,), 2000.0), negatives(), KIND_N) == 0.005


@pytest.mark.parametrize(("lost", "expected"), [(2, 0.005), (3, 0.03)])
def test_two_points_may_be_given_up(lost: int, expected: float) -> None:
    own_N = torch.full((100,), 2000.0)
    own_N[:lost] = 975.0  # between the thresholds of 0.02 and 0.03
    assert choose_bound(own_N, negatives(), KIND_N) == expected


def test_what_no_bound_finds_does_not_count() -> None:
    own_N = torch.full((100,), -torch.inf)
    assert choose_bound(own_N, negatives(), KIND_N) == 0.005


def test_bounds_that_the_negatives_are_too_few_for_are_left_out() -> None:
    own_N = torch.full((100,), 2000.0)
    assert choose_bound(own_N, torch.arange(30.0), KIND_N[:30]) == 0.04
    with pytest.raises(ConfigError, match="at least 19 held-out hard negatives, there are 5"):
        choose_bound(own_N, torch.arange(5.0), KIND_N[:5])
