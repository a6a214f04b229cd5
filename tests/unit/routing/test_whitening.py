"""Whitening is the inverse square root of the shrunk covariance, in low-rank form."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from scen.routing.whitening import Whitening

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
    folded_KNC = normalize(torch.bmm(centred_KNF, whitening.fold(view_KFC)), dim=-1)
    plain_KNC = normalize(torch.bmm(whitening(key_NKF).transpose(0, 1), view_KFC), dim=-1)
    torch.testing.assert_close(folded_KNC, plain_KNC, rtol=0, atol=1e-5)


def test_a_sample_that_does_not_vary_centres_only() -> None:
    key_NKF = sample(1, 6).round().expand(4, -1, -1)
    whitening = Whitening.fit(key_NKF, SHRINKAGE)
    away_KF = torch.ones(1, 6)
    white_BKF = whitening(key_NKF[:1] + away_KF)
    torch.testing.assert_close(white_BKF[0], normalize(away_KF, dim=-1), rtol=0, atol=1e-4)
