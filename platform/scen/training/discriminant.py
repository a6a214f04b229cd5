"""Learned views of keys in closed form: directions in which prompts of one class agree and those
of different classes do not.

Within-class covariance normalisation (Hatch et al. 2006) followed by the principal directions of
what is left, as in linear discriminant analysis. Suffixes: N prompts, F numbers of a key, C of a
view.
"""

import torch
from torch import Tensor

_SHRINKAGE = 1.0  # of the within-class covariance, relative to its mean variance


def fit_view(key_NF: Tensor, class_N: Tensor, width: int) -> Tensor:
    """view_FC with C = min(width, F) from whitened keys and their classes (int64, any numbers).

    Classes of one prompt say nothing about what varies within a class.
    """
    width_F = key_NF.shape[1]
    within_FF = within_class(key_NF, class_N)
    # Any root of the inverse will do: the principal directions behind it are the same.
    lower_FF = torch.linalg.cholesky(within_FF)
    identity_FF = torch.eye(width_F)
    flat_FF = torch.linalg.solve_triangular(lower_FF, identity_FF, upper=False).T
    spread_NF = (key_NF - key_NF.mean(0)) @ flat_FF
    _, axis_FF = torch.linalg.eigh(spread_NF.T @ spread_NF)
    view_FC: Tensor = flat_FF @ axis_FF[:, -min(width, width_F) :]
    return view_FC


def within_class(key_NF: Tensor, class_N: Tensor) -> Tensor:
    """within_FF: the covariance of keys around the mean of their class, shrunk towards one that is
    the same in all directions."""
    within_FF = _within(key_NF, class_N)
    mean_variance = within_FF.diagonal().mean().clamp_min(1e-12)
    return within_FF + _SHRINKAGE * mean_variance * torch.eye(key_NF.shape[1])


def _within(key_NF: Tensor, class_N: Tensor) -> Tensor:
    """within_FF: the covariance of keys around the mean of their class."""
    names, place_N, count_C = class_N.unique(return_inverse=True, return_counts=True)
    mean_CF = torch.zeros(len(names), key_NF.shape[1]).index_add_(0, place_N, key_NF)
    mean_CF /= count_C[:, None]
    rest_NF = (key_NF - mean_CF[place_N])[count_C[place_N] > 1]
    freedom = max(len(rest_NF) - int((count_C > 1).sum()), 1)
    return rest_NF.T @ rest_NF / freedom
