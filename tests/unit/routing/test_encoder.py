"""Whitening and views: shapes, unit length, and what survives being stored."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from scen.model.keys import KeyPlace
from scen.routing.keys import SEARCH_WIDTH, KeyEncoder, Whitening, compose_encoder, random_view
from scen.routing.router import Router

MakeKeys = Callable[[int, int], Tensor]


@pytest.fixture
def encoder(router: Router) -> KeyEncoder:
    return router.encoder


@pytest.fixture
def wide() -> KeyEncoder:
    """Two places with first views of 100 numbers each: more than are searched by."""
    key_NKF = torch.randn(30, 2, 100, generator=torch.Generator().manual_seed(0))
    places = (KeyPlace(1, "mean"), KeyPlace(4, "last"))
    return compose_encoder(Whitening.fit(key_NKF, 0.1), places, [torch.eye(100).repeat(2, 1, 1)])


def by_view(code_BKC: Tensor) -> list[Tensor]:
    """The four views of the small router, place by place."""
    return [part for place in code_BKC.unbind(1) for part in (place[:, :8], place[:, 8:])]


def test_a_code_is_the_whitened_key_in_each_view(make_keys: MakeKeys, encoder: KeyEncoder) -> None:
    key_BKF = make_keys(20, 1)
    white_BKF = Whitening.fit(make_keys(100, 9), 0.1)(key_BKF)
    views = [random_view(2, 24, width, seed=width) for width in (8, 4)]
    parts = [normalize(torch.einsum("bkf,kfc->bkc", white_BKF, view), dim=-1) for view in views]
    torch.testing.assert_close(encoder(key_BKF), torch.cat(parts, -1), rtol=0, atol=5e-3)


def test_every_view_has_length_one(make_keys: MakeKeys, encoder: KeyEncoder) -> None:
    code_BKC = encoder(make_keys(20, 1).half())
    assert (code_BKC.shape, code_BKC.dtype) == ((20, 2, 12), torch.float32)
    for view_BC in by_view(code_BKC):
        torch.testing.assert_close(view_BC.norm(dim=1), torch.ones(20), rtol=0, atol=1e-5)


def test_similarities_are_cosines_in_the_order_of_their_names(
    make_keys: MakeKeys, encoder: KeyEncoder
) -> None:
    code_BKC, other_EKC = encoder(make_keys(3, 1)), encoder(make_keys(5, 2))
    sim_BEV = encoder.compare(code_BKC, other_EKC.expand(3, -1, -1, -1))
    assert encoder.view_names() == ["mean@1.0", "mean@1.1", "last@4.0", "last@4.1"]
    assert encoder.num_views == 4
    for v, (ours, theirs) in enumerate(zip(by_view(code_BKC), by_view(other_EKC), strict=True)):
        expected_BE = cosine_similarity(ours[:, None], theirs[None], dim=-1)
        torch.testing.assert_close(sim_BEV[..., v], expected_BE, rtol=0, atol=1e-5)


def test_layers_are_those_of_the_places(encoder: KeyEncoder) -> None:
    assert encoder.layers == {1, 4}


def test_a_short_search_key_is_the_first_views_joined(
    make_keys: MakeKeys, encoder: KeyEncoder
) -> None:
    code_BKC = encoder(make_keys(20, 1))
    joined_BJ = torch.cat([code_BKC[:, 0, :8], code_BKC[:, 1, :8]], 1)
    assert torch.equal(encoder.first_views(code_BKC), joined_BJ)
    torch.testing.assert_close(encoder.search_key(code_BKC), joined_BJ / 2**0.5)


def test_a_long_one_is_projected_and_keeps_cosines(wide: KeyEncoder) -> None:
    key_BKF = torch.randn(40, 2, 100, generator=torch.Generator().manual_seed(1))
    code_BKC = wide(key_BKF)
    key_BD = wide.search_key(code_BKC)
    assert key_BD.shape == (40, SEARCH_WIDTH)
    torch.testing.assert_close(key_BD.norm(dim=1), torch.ones(40), rtol=0, atol=1e-5)
    joined_BJ = normalize(wide.first_views(code_BKC), dim=1)
    error_BB = key_BD @ key_BD.T - joined_BJ @ joined_BJ.T
    assert error_BB.abs().mean() < 1 / SEARCH_WIDTH**0.5


def test_search_keys_can_be_projected_otherwise(make_keys: MakeKeys, encoder: KeyEncoder) -> None:
    code_BKC = encoder(make_keys(20, 1))
    search_JD = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
    key_BD = encoder.searching_by(search_JD).search_key(code_BKC)
    expected_BD = normalize(encoder.first_views(code_BKC) @ search_JD, dim=1)
    torch.testing.assert_close(key_BD, expected_BD, rtol=0, atol=5e-3)
    scaled = encoder.searching_by(2**20 * search_JD)  # too large for half precision
    assert torch.equal(scaled.search_key(code_BKC), key_BD)
    assert torch.equal(scaled(make_keys(20, 1)), code_BKC)


def test_an_encoder_behind_a_projection_takes_what_comes_before_it(
    make_keys: MakeKeys, encoder: KeyEncoder
) -> None:
    projection_GF = torch.randn(60, 24, generator=torch.Generator().manual_seed(4))
    raw_NKG = torch.randn(30, 2, 60, generator=torch.Generator().manual_seed(5))
    expected_NKC = encoder(raw_NKG @ projection_GF)
    found_NKC = encoder.after(projection_GF)(raw_NKG)
    torch.testing.assert_close(found_NKC, expected_NKC, rtol=0, atol=5e-3)


def test_a_stored_encoder_gives_the_same_numbers(wide: KeyEncoder) -> None:
    tensors = wide.tensors()
    assert tensors["matrix"].dtype == tensors["search"].dtype == torch.float16
    back = KeyEncoder.from_tensors(tensors)
    assert (back.places, back.widths) == (wide.places, wide.widths)
    code_BKC = wide(torch.ones(1, 2, 100))
    assert torch.equal(back(torch.ones(1, 2, 100)), code_BKC)
    assert torch.equal(back.search_key(code_BKC), wide.search_key(code_BKC))


def test_random_views_keep_lengths_and_come_from_their_seed() -> None:
    view_KFC = random_view(2, 300, 200, seed=0)
    assert torch.equal(view_KFC, random_view(2, 300, 200, seed=0))
    assert not torch.equal(view_KFC, random_view(2, 300, 200, seed=1))
    key_NF = normalize(torch.randn(50, 300, generator=torch.Generator().manual_seed(5)), dim=1)
    for view_FC in view_KFC:
        assert ((key_NF @ view_FC).norm(dim=1) - 1).abs().max() < 0.25


SHRINKAGE = 0.25


def sample(rows: int, width: int, places: int = 1) -> Tensor:
    """Keys with unequal directions and a mean far from zero."""
    draw = torch.Generator().manual_seed(0)
    mix_FF = torch.randn(width, width, generator=draw)
    return torch.randn(rows, places, width, generator=draw) @ mix_FF + 10


def test_directions_come_out_even() -> None:
    draw = torch.Generator().manual_seed(0)
    key_NKF = torch.randn(500, 1, 8, generator=draw) * torch.tensor([50.0, *[1.0] * 7]) + 100
    white_NF = Whitening.fit(key_NKF, shrinkage=1e-3)(key_NKF)[:, 0]
    spread_F = white_NF.std(0)
    assert spread_F.max() / spread_F.min() < 1.5
    assert white_NF.mean(0).abs().max() < 0.1


def test_it_is_the_inverse_root_of_the_shrunk_covariance() -> None:
    key_NKF = sample(200, 6)
    key_NF = key_NKF[:, 0].double()
    cov_FF = torch.cov(key_NF.T)
    floor = SHRINKAGE * cov_FF.diagonal().mean()
    value_F, axis_FF = torch.linalg.eigh(cov_FF + floor * torch.eye(6))
    root_FF = axis_FF / value_F.sqrt() @ axis_FF.T
    expected_NF = normalize((key_NF - key_NF.mean(0)) @ root_FF, dim=1)
    white_NKF = Whitening.fit(key_NKF, SHRINKAGE)(key_NKF)
    torch.testing.assert_close(white_NKF[:, 0].double(), expected_NF, rtol=0, atol=1e-5)


def test_directions_without_samples_keep_their_weight() -> None:
    key_NKF = sample(5, 12)
    whitening = Whitening.fit(key_NKF, SHRINKAGE)
    centred_NF = (key_NKF - whitening.mean_KF)[:, 0]
    beside_F = torch.linalg.svd(centred_NF)[2][-1]  # orthogonal to every sample
    white_F = whitening((whitening.mean_KF + 7 * beside_F)[None])[0, 0]
    torch.testing.assert_close(white_F, beside_F, rtol=0, atol=1e-5)


def test_places_do_not_mix() -> None:
    key_NKF = sample(30, 6, places=3)
    together = Whitening.fit(key_NKF, SHRINKAGE)(key_NKF)
    for k in range(3):
        alone = Whitening.fit(key_NKF[:, k : k + 1], SHRINKAGE)(key_NKF[:, k : k + 1])
        torch.testing.assert_close(together[:, k : k + 1], alone, rtol=0, atol=1e-5)


def test_a_folded_view_is_whitening_and_then_the_view() -> None:
    key_NKF = sample(9, 6, places=2)
    whitening = Whitening.fit(key_NKF, SHRINKAGE)
    view_KFC = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(1))
    centred_KNF = (key_NKF - whitening.mean_KF).transpose(0, 1)
    folded_KNC = normalize(torch.bmm(centred_KNF, whitening.compose(view_KFC)), dim=-1)
    plain_KNC = normalize(torch.bmm(whitening(key_NKF).transpose(0, 1), view_KFC), dim=-1)
    torch.testing.assert_close(folded_KNC, plain_KNC, rtol=0, atol=1e-5)


def test_a_sample_that_does_not_vary_centres_only() -> None:
    key_NKF = sample(1, 6).round().expand(4, -1, -1)
    whitening = Whitening.fit(key_NKF, SHRINKAGE)
    away_KF = torch.ones(1, 6)
    white_BKF = whitening(key_NKF[:1] + away_KF)
    torch.testing.assert_close(white_BKF[0], normalize(away_KF, dim=-1), rtol=0, atol=1e-4)
