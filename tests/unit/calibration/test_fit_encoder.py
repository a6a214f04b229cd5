"""A learned view keeps what tells classes apart and drops what varies within them."""

import pytest
import torch
from torch import Tensor

from scen.calibration.fit_encoder import fit_view


def classes(
    between_F: Tensor, within_F: Tensor, count: int = 60, size: int = 5
) -> tuple[Tensor, Tensor]:
    """Keys of classes: their means and their members with these standard deviations."""
    draw = torch.Generator().manual_seed(0)
    mean_CF = torch.randn(count, len(between_F), generator=draw) * between_F
    noise_CNF = torch.randn(count, size, len(within_F), generator=draw) * within_F
    key_NF = (mean_CF[:, None] + noise_CNF).flatten(0, 1)
    return key_NF, torch.arange(count).repeat_interleave(size)


def aligned(a_F: Tensor, b_F: Tensor) -> float:
    """The absolute cosine: 1 where two directions are the same up to sign and scale."""
    return float(torch.cosine_similarity(a_F.double(), b_F.double(), dim=0).abs())


def test_the_planted_class_direction_is_found() -> None:
    between_F, within_F = torch.tensor([0.0, 0.0, 2.0, 0.0, 0.0, 0.0]), torch.ones(6)
    view_FC = fit_view(*classes(between_F, within_F), width=1)
    assert view_FC.shape == (6, 1)
    assert aligned(view_FC[:, 0], torch.eye(6)[2]) > 0.97


def test_what_varies_most_within_classes_is_suppressed() -> None:
    between_F, within_F = torch.zeros(32), torch.ones(32)
    between_F[:2], within_F[2] = 4, 9
    key_NF, class_N = classes(between_F, within_F)
    loudest_F = torch.linalg.svd(key_NF - key_NF.mean(0))[2][0]
    assert aligned(loudest_F, torch.eye(32)[2]) > 0.99  # what principal components would keep
    view_FC = fit_view(key_NF, class_N, width=2)
    assert view_FC[2].norm() < 0.05 * view_FC.norm()
    plane_FC = torch.linalg.qr(view_FC)[0]
    for direction in (0, 1):
        assert plane_FC[direction].norm() > 0.97


def test_it_is_the_textbook_s_discriminant() -> None:
    """Against the eigenvectors of inv(within + its mean variance) times the whole scatter."""
    mix_FF = torch.randn(5, 5, generator=torch.Generator().manual_seed(3))
    key_NF, class_N = classes(torch.tensor([3.0, 2.0, 1.0, 0.5, 0.1]), torch.ones(5), 30, 4)
    key_NF = key_NF @ mix_FF
    key_CNF = key_NF.double().view(30, 4, 5)
    rest_NF = (key_CNF - key_CNF.mean(1, keepdim=True)).flatten(0, 1)
    within_FF = rest_NF.T @ rest_NF / (120 - 30)
    within_FF = within_FF + within_FF.diagonal().mean() * torch.eye(5)
    scatter_FF = torch.cov(key_NF.double().T)
    value_F, axis_FF = torch.linalg.eig(torch.linalg.inv(within_FF) @ scatter_FF)
    rising = value_F.real.argsort()
    view_FC = fit_view(key_NF, class_N, width=5)
    for place, which in enumerate(rising):
        assert aligned(view_FC[:, place], axis_FF.real[:, which]) > 0.9999


def test_a_narrower_view_keeps_the_best_directions() -> None:
    key_NF, class_N = classes(torch.tensor([3.0, 2.0, 1.0, 0.5]), torch.ones(4))
    whole_FC = fit_view(key_NF, class_N, width=4)
    for width, kept_FC in ((2, whole_FC[:, 2:]), (99, whole_FC)):
        view_FC = fit_view(key_NF, class_N, width)
        torch.testing.assert_close(view_FC, kept_FC, rtol=0, atol=1e-5)


def test_the_numbers_of_classes_are_only_names() -> None:
    key_NF, class_N = classes(torch.tensor([2.0, 1.0, 0.0]), torch.ones(3))
    renamed_N = torch.where(class_N % 2 == 0, class_N * 1000 - 7, class_N)
    expected_FC = fit_view(key_NF, class_N, width=2)
    for column in range(2):
        renamed_F = fit_view(key_NF, renamed_N, width=2)[:, column]
        assert aligned(renamed_F, expected_FC[:, column]) > 0.9999
    mixed_N = class_N[torch.randperm(len(class_N), generator=torch.Generator().manual_seed(0))]
    assert aligned(fit_view(key_NF, mixed_N, width=1)[:, 0], expected_FC[:, 1]) < 0.9999


@pytest.mark.parametrize("singles", [0, 80])
def test_classes_of_one_say_nothing_of_what_varies_within(singles: int) -> None:
    """Their spread along the third direction must not be taken for noise there."""
    key_NF, class_N = classes(torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.3, 0.3, 0.3]))
    draw = torch.Generator().manual_seed(1)
    single_NF = torch.randn(singles, 3, generator=draw) * torch.tensor([0.0, 0.0, 5.0])
    names_N = torch.cat([class_N, 1000 + torch.arange(singles)])
    view_FC = fit_view(torch.cat([key_NF, single_NF]), names_N, width=1)
    assert aligned(view_FC[:, 0], torch.eye(3)[2 if singles else 0]) > 0.97


def test_without_a_class_of_two_it_is_the_principal_directions() -> None:
    key_NF, _ = classes(torch.zeros(4), torch.tensor([1.0, 4.0, 2.0, 0.5]))
    view_FC = fit_view(key_NF, torch.arange(len(key_NF)), width=2)
    axes_FF = torch.linalg.svd(key_NF - key_NF.mean(0))[2]
    assert view_FC.isfinite().all()
    assert aligned(view_FC[:, 1], axes_FF[0]) > 0.9999
    assert aligned(view_FC[:, 0], axes_FF[1]) > 0.9999
