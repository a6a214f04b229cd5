"""Inputs of the gate besides key similarities: the manner of a message, and shared words.

Whether a message asks a question or is a task about it shows in what the base is about to do (the
last prompt token) and in the words around the span. Suffixes: M spans, E candidate edits,
V similarities, L figures of words, K places, F numbers of a raw key, D numbers of a manner, G those
of all places, I inputs of the gate, H buckets of words.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from scen.model.keys import KeyPlace, SpanKeys
from scen.routing.words import NUM_FIGURES, compare_words

_ALL = 0.95  # a span with a larger share of the message has no words around it
_NEAREST = 1e-3  # cosines closer to 1 than this are those of identical texts


@dataclass(frozen=True)
class Evidence:
    """The manner of a message at each place, `(key - mean_KF) matrix_KFD`: of the last token at
    places of kind `last`, of the words around the span at the others (0 where there are none).

    `plain_G` is the manner of a question by itself, `rarity_H` how rare words are.
    """

    mean_KF: Tensor
    matrix_KFD: Tensor
    plain_G: Tensor
    rarity_H: Tensor

    def manner(self, keys: SpanKeys, places: tuple[KeyPlace, ...]) -> Tensor:
        """manner_MG of spans."""
        first_R = (keys.span_M == 0).nonzero().squeeze(1)
        number_M = keys.row_M.unique_consecutive(return_inverse=True)[1]
        whole_MKF = keys.key_MKF[first_R[number_M]]
        around_MKF = around(keys.key_MKF, whole_MKF, keys.share_M, places)
        found_KMD = torch.bmm((around_MKF - self.mean_KF).transpose(0, 1), self.matrix_KFD)
        has_words_M = keys.share_M < _ALL
        is_known_KM = torch.stack(
            [torch.ones_like(has_words_M) if p.kind == "last" else has_words_M for p in places]
        )
        return (found_KMD * is_known_KM[..., None]).transpose(0, 1).flatten(1)

    def after(self, projection_GF: Tensor) -> "Evidence":
        """The evidence of raw keys of G numbers, where this one takes them times
        `projection_GF`."""
        mean_KG = torch.linalg.lstsq(projection_GF.T, self.mean_KF.T).solution.T
        return replace(self, mean_KF=mean_KG, matrix_KFD=projection_GF @ self.matrix_KFD)

    def words(self, texts: Sequence[str], edits: Sequence[Sequence[str | None]]) -> Tensor:
        """words_MEL of each span and its candidate edits; 0 where there is none."""
        nothing = [0.0] * NUM_FIGURES
        return torch.tensor(
            [
                [nothing if e is None else compare_words(text, e, self._rarity) for e in some]
                for text, some in zip(texts, edits, strict=True)
            ]
        ).view(len(texts), -1, NUM_FIGURES)

    def inputs(
        self, sim_MEV: Tensor, words_MEL: Tensor, share_M: Tensor, manner_MG: Tensor
    ) -> Tensor:
        """x_MEI: the inputs of the gate. Distances are included beside the cosines, which differ
        by little near 1."""
        per_span = torch.cat([share_M[:, None], manner_MG], 1)
        shared = per_span[:, None].expand(-1, sim_MEV.shape[1], -1)
        distance_MEV = (1 - sim_MEV).clamp_min(_NEAREST).sub(_NEAREST).sqrt()
        return torch.cat([sim_MEV, distance_MEV, words_MEL.to(sim_MEV), shared.to(sim_MEV)], -1)

    @cached_property
    def _rarity(self) -> list[float]:
        rarity: list[float] = self.rarity_H.tolist()
        return rarity

    def tensors(self) -> dict[str, Tensor]:
        """The evidence as named tensors."""
        return {
            "mean": self.mean_KF.float(),
            "matrix": self.matrix_KFD.float(),
            "plain": self.plain_G.float(),
            "rarity": self.rarity_H.half(),
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> "Evidence":
        """The evidence that `tensors` described."""
        mean, matrix, plain = (tensors[name].float() for name in ("mean", "matrix", "plain"))
        return cls(mean, matrix, plain, tensors["rarity"])


def around(
    key_MKF: Tensor, whole_MKF: Tensor, share_M: Tensor, places: tuple[KeyPlace, ...]
) -> Tensor:
    """key_MKF float32: at places of kind `last` the keys of spans as they are; at the others the
    mean over the words of the message (`whole_MKF`) that are not in the span."""
    share_M11 = share_M[:, None, None].float().clamp(max=1)
    rest_MKF = (whole_MKF.float() - share_M11 * key_MKF) / (1 - share_M11).clamp_min(1 - _ALL)
    is_last_K = torch.tensor([place.kind == "last" for place in places], device=key_MKF.device)
    return torch.where(is_last_K[:, None], key_MKF.float(), rest_MKF)


def input_columns(columns: Sequence[int], num_places: int, views: int, manner: int) -> list[int]:
    """Indices of the gate inputs that belong to some of `num_places` places (`columns`, rising),
    each with `views` similarities and `manner` numbers."""
    sims = [place * views + view for place in columns for view in range(views)]
    after = 2 * num_places * views
    shared = list(range(after, after + NUM_FIGURES + 1))
    begin = after + NUM_FIGURES + 1
    manners = [begin + place * manner + i for place in columns for i in range(manner)]
    return [*sims, *(num_places * views + i for i in sims), *shared, *manners]


def manner_begin(inputs: int, views: int, manner: int) -> int:
    """Index of the first manner among `inputs` gate inputs, with `views` similarities and `manner`
    numbers at each place."""
    places = (inputs - NUM_FIGURES - 1) // (2 * views + manner)
    return inputs - places * manner
