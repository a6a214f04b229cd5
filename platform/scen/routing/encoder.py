"""From the raw keys of a prompt to the compact ones that are stored and compared.

Suffixes: K places, F numbers of a raw key, N sampled directions, C numbers of a compact key, H
views per place, J numbers of the first views of all places, D numbers of a search key.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from scen.model.keys import KeyKind, KeyPlace

_TINY = torch.finfo(torch.float32).tiny  # keys without variance are only centred


@dataclass(frozen=True)
class Whitening:
    """Shrunk whitening of K kinds of key, in low-rank form.

    Without whitening the keys of all prompts point the same way, and the nearest edit is nearly
    arbitrary. The covariance of key k is modelled as `axis diag(var) axis' + floor I`. `axis_KNF`
    are N orthonormal directions, `keep_KN` the factor by which each is scaled relative to the rest.
    Memory grows with the number of sampled prompts, not with F squared.
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

    def compose(self, view_KFC: Tensor) -> Tensor:
        """matrix_KFC: whitening followed by a projection by `view_KFC`, as one matrix."""
        along_KNC = torch.bmm(self.axis_KNF, view_KFC) * (1 - self.keep_KN[..., None])
        return view_KFC - torch.bmm(self.axis_KNF.transpose(1, 2), along_KNC)


SEARCH_WIDTH = 128
"""D where J is larger. Among 1,000 edits and 16,000 other prompts, a fitted projection from 512
to 128 numbers retrieves the same edits as all 512; one to 64 misses four edits in a thousand."""

_KINDS: tuple[KeyKind, ...] = ("mean", "last", "span")


@dataclass(frozen=True)
class KeyEncoder:
    """At each place the centred raw key times a matrix, cut into views of unit length.

    A view is a range of the C columns (`widths`, in order): one may separate subjects, another
    questions. Two prompts are compared view by view. Candidates are retrieved by one short search
    key: the first views times `search_JD`.
    """

    places: tuple[KeyPlace, ...]
    widths: tuple[int, ...]
    mean_KF: Tensor
    matrix_KFC: Tensor
    search_JD: Tensor

    @property
    def num_views(self) -> int:
        """K times H: the similarities of two prompts."""
        return len(self.places) * len(self.widths)

    @property
    def layers(self) -> frozenset[int]:
        """The layers whose keys are read."""
        return frozenset(place.layer for place in self.places)

    def __call__(self, key_BKF: Tensor) -> Tensor:
        """code_BKC float32 of B prompts; each view has length 1."""
        centred_KBF = (key_BKF.to(self.mean_KF) - self.mean_KF).transpose(0, 1)
        code_BKC = torch.bmm(centred_KBF, self.matrix_KFC).transpose(0, 1)
        views = code_BKC.split(self.widths, -1)
        return torch.cat([torch.nn.functional.normalize(view, dim=-1) for view in views], -1)

    def first_views(self, code_BKC: Tensor) -> Tensor:
        """key_BJ: the first views of all places, joined."""
        return code_BKC[..., : self.widths[0]].flatten(1)

    def search_key(self, code_BKC: Tensor) -> Tensor:
        """key_BD of length 1, by which candidates are retrieved."""
        key_BD = self.first_views(code_BKC) @ self.search_JD
        return torch.nn.functional.normalize(key_BD, dim=-1)

    def searching_by(self, search_JD: Tensor) -> "KeyEncoder":
        """The same encoder with another projection to search keys, whose scale does not matter."""
        return replace(self, search_JD=_through_half(search_JD, (0, 1)))

    def after(self, projection_GF: Tensor) -> "KeyEncoder":
        """The encoder of raw keys of G numbers, where this one takes them times `projection_GF`."""
        mean_KG = torch.linalg.lstsq(projection_GF.T, self.mean_KF.T).solution.T
        matrix_KGC = _through_half(projection_GF @ self.matrix_KFC, (1, 2))
        return replace(self, mean_KF=mean_KG, matrix_KFC=matrix_KGC)

    def compare(self, code_BKC: Tensor, other_BEKC: Tensor) -> Tensor:
        """sim_BEV: the cosine of each view of prompt b and of its E others, place by place."""
        product_BEKC = code_BKC[:, None] * other_BEKC
        views = [part.sum(-1) for part in product_BEKC.split(self.widths, -1)]
        return torch.stack(views, -1).flatten(2)

    def view_names(self) -> list[str]:
        """The names of the V similarities, such as mean@6.0."""
        return [f"{p.name}.{h}" for p in self.places for h in range(len(self.widths))]

    def tensors(self) -> dict[str, Tensor]:
        """The encoder as named tensors; matrices in half precision."""
        places = [[place.layer, _KINDS.index(place.kind)] for place in self.places]
        return {
            "places": torch.tensor(places),
            "widths": torch.tensor(self.widths),
            "mean": self.mean_KF.float(),
            "matrix": self.matrix_KFC.half(),
            "search": self.search_JD.half(),
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> "KeyEncoder":
        """The encoder that `tensors` described."""
        places = tuple(KeyPlace(layer, _KINDS[kind]) for layer, kind in tensors["places"].tolist())
        widths = tuple(tensors["widths"].tolist())
        mean_KF, matrix_KFC = tensors["mean"].float(), tensors["matrix"].float()
        return cls(places, widths, mean_KF, matrix_KFC, tensors["search"].float())


def compose_encoder(
    whitening: Whitening, places: tuple[KeyPlace, ...], views: list[Tensor]
) -> KeyEncoder:
    """The encoder that whitens and then applies the views, each [K, F, width].

    Its search keys are the first views as they are, or where those are long a random projection.
    """
    matrix_KFC = _through_half(whitening.compose(torch.cat(views, -1)), (1, 2))
    widths = tuple(view.shape[-1] for view in views)
    joined = len(places) * widths[0]
    search_JD = torch.eye(joined)
    if joined > SEARCH_WIDTH:
        search_JD = random_view(1, joined, SEARCH_WIDTH, seed=1)[0]
    encoder = KeyEncoder(places, widths, whitening.mean_KF, matrix_KFC, search_JD)
    return encoder.searching_by(search_JD)


def random_view(places: int, width_F: int, width_C: int, seed: int) -> Tensor:
    """[K, F, C]: random directions, which nearly preserve all cosines (Johnson and Lindenstrauss
    1984)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(places, width_F, width_C, generator=generator) / math.sqrt(width_C)


def _through_half(matrix: Tensor, dims: tuple[int, ...]) -> Tensor:
    """The matrix scaled to a largest entry of 1 and rounded to half precision, as it is stored, so
    that calibration sees the numbers that serving will use."""
    return (matrix / matrix.abs().amax(dims, keepdim=True)).half().float()
