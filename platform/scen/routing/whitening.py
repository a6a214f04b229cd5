"""Whitening of keys: centred on the base's own statistics, every direction of equal weight.

Without it the keys of all prompts point the same way, and the nearest edit is nearly arbitrary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

_TINY = torch.finfo(torch.float32).tiny  # of keys that do not vary, which are centred only


@dataclass(frozen=True)
class Whitening:
    """Shrunk whitening of K kinds of key, in low-rank form.

    The covariance of key k is taken as `axis diag(var) axis' + floor I`; `mean_KF`, `axis_KNF`
    (N directions, orthonormal), `keep_KN` (what is left of a direction, relative to the rest).
    Bytes grow with the number of sampled prompts, not with F squared.
    """

    mean_KF: Tensor
    axis_KNF: Tensor
    keep_KN: Tensor

    @classmethod
    def fit(cls, sample_NKF: Tensor, shrinkage: float) -> "Whitening":
        """From the keys of N prompts. `shrinkage` is the floor relative to the mean variance
        of the sampled directions; larger trusts the sample less."""
        sample_KNF = sample_NKF.float().transpose(0, 1)
        mean_KF = sample_KNF.mean(1)
        centred_KNF = sample_KNF - mean_KF[:, None]
        _, size_KN, axis_KNF = torch.linalg.svd(centred_KNF, full_matrices=False)
        var_KN = size_KN**2 / max(len(sample_NKF) - 1, 1)
        floor_K1 = (shrinkage * var_KN.mean(1, keepdim=True)).clamp_min(_TINY)
        keep_KN = (floor_K1 / (var_KN + floor_K1)).sqrt()
        return cls(mean_KF, axis_KNF, keep_KN)

    def __call__(self, key_BKF: Tensor) -> Tensor:
        """Whitened keys of unit length, float32."""
        centred_KBF = (key_BKF.float() - self.mean_KF).transpose(0, 1)
        along_KBN = torch.bmm(centred_KBF, self.axis_KNF.transpose(1, 2))
        cut_KBF = torch.bmm(along_KBN * (1 - self.keep_KN[:, None]), self.axis_KNF)
        white_BKF = (centred_KBF - cut_KBF).transpose(0, 1)
        return torch.nn.functional.normalize(white_BKF, dim=-1)

    def fold(self, view_KFC: Tensor) -> Tensor:
        """matrix_KFC: what whitens and then projects by `view_KFC`, as one matrix."""
        along_KNC = torch.bmm(self.axis_KNF, view_KFC) * (1 - self.keep_KN[..., None])
        return view_KFC - torch.bmm(self.axis_KNF.transpose(1, 2), along_KNC)
