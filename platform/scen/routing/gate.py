"""The gate, which scores a prompt against an edit with weights shared by all edits, and its inputs.

Besides key similarities, its inputs are the manner of a message and word overlap. Whether a message
asks a question or sets a task about it shows in what the base is about to do (the key of the last
prompt token) and in the words around the span. Words: see `scen.routing.words`.

Suffixes: M spans, E candidate edits, V similarities and other inputs, L word features, K places, F
dimensions of a raw key, D dimensions of a manner, G those of all places, I inputs, S hidden units,
H word buckets.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import gelu, softplus

from scen.model.keys import KeyPlace, SpanKeys
from scen.routing.words import NUM_FIGURES, Rarity, compare_words

_SPREAD = 3.0  # cosines differ by tenths; the hidden units need a wider range


@dataclass(frozen=True)
class Gate:
    """score = x . direct + out . h + offset, with h = gelu(3 x . hidden + bias); or, with a second
    layer, h = gelu(gelu(x . hidden + bias) . inner + inner_bias).

    A trained gate gives the log-odds, under balanced classes, that the prompt asks for the edit's
    fact. Without hidden units the score is a weighted sum.
    """

    direct_V: Tensor
    hidden_VS: Tensor
    bias_S: Tensor
    out_S: Tensor
    offset: Tensor
    inner_SS: Tensor | None = None
    inner_bias_S: Tensor | None = None

    @classmethod
    def mean(cls, num_views: int) -> "Gate":
        """The gate of an uncalibrated router: the mean of the similarities."""
        empty = torch.zeros(0)
        direct_V = torch.full((num_views,), 1 / num_views)
        return cls(direct_V, torch.zeros(num_views, 0), empty, empty, torch.zeros(()))

    @classmethod
    def initial(cls, num_views: int, hidden: int, seed: int, *, is_deep: bool = False) -> "Gate":
        """A gate before training; `is_deep`: with a second hidden layer."""
        generator = torch.Generator().manual_seed(seed)
        hidden_VS = torch.randn(num_views, hidden, generator=generator) * num_views**-0.5
        out_S = torch.randn(hidden, generator=generator) * hidden**-0.5
        zero_V, zero_S = torch.zeros(num_views), torch.zeros(hidden)
        if not is_deep:
            return cls(zero_V, hidden_VS, zero_S, out_S, torch.zeros(()))
        inner_SS = torch.randn(hidden, hidden, generator=generator) * hidden**-0.5
        return cls(zero_V, hidden_VS, zero_S, out_S, torch.zeros(()), inner_SS, zero_S.clone())

    @classmethod
    def averaged(cls, gates: Sequence["Gate"]) -> "Gate":
        """One gate whose score is the mean of the scores of several gates of the same form; its
        hidden units are those of all of them."""
        first, count = gates[0], len(gates)
        inner_SS, inner_bias_S = None, None
        if first.inner_SS is not None:
            inner_SS = torch.block_diag(*(g.inner_SS for g in gates if g.inner_SS is not None))
            inner_bias_S = torch.cat([g.inner_bias_S for g in gates if g.inner_bias_S is not None])
        return cls(
            torch.stack([g.direct_V for g in gates]).mean(0),
            torch.cat([g.hidden_VS for g in gates], 1),
            torch.cat([g.bias_S for g in gates]),
            torch.cat([g.out_S for g in gates]) / count,
            torch.stack([g.offset for g in gates]).mean(0),
            inner_SS,
            inner_bias_S,
        )

    def __call__(self, x_V: Tensor) -> Tensor:
        """The scores of pairs; V is the last dimension of `x_V`."""
        if self.inner_SS is None or self.inner_bias_S is None:
            hidden_S = gelu(_SPREAD * x_V @ self.hidden_VS + self.bias_S)
        else:
            hidden_S = gelu(x_V @ self.hidden_VS + self.bias_S)
            hidden_S = gelu(hidden_S @ self.inner_SS + self.inner_bias_S)
        return x_V @ self.direct_V + hidden_S @ self.out_S + self.offset

    def tensors(self) -> dict[str, Tensor]:
        """The gate as named tensors."""
        named = {
            "direct": self.direct_V,
            "hidden": self.hidden_VS,
            "bias": self.bias_S,
            "out": self.out_S,
            "offset": self.offset,
            "inner": self.inner_SS,
            "inner_bias": self.inner_bias_S,
        }
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> "Gate":
        """Inverse of `tensors`."""
        names = ("direct", "hidden", "bias", "out", "offset", "inner", "inner_bias")
        return cls(*(tensors[name] for name in names if name in tensors))


_FIRST_FIGURES = 10  # word features of routers saved without their number
_ALL = 0.95  # a span with a larger share of the message counts as having no words around it
_NEAREST = 1e-3  # cosines closer to 1 than this are those of identical texts


@dataclass(frozen=True)
class Evidence:
    """Gate inputs besides similarities.

    The manner of a message is, at each place, `(key - mean_KF) matrix_KFD`, where the key is that
    of the last token at places of kind `last`, and that of the words around the span elsewhere (the
    manner is 0 without such words). `plain_G` is the manner of a bare question, `rarity_H` the
    rarity of words, `figures` the number of word features (L).
    """

    mean_KF: Tensor
    matrix_KFD: Tensor
    plain_G: Tensor
    rarity_H: Tensor
    figures: int = NUM_FIGURES

    def manner(self, keys: SpanKeys, places: tuple[KeyPlace, ...]) -> Tensor:
        """manner_MG of spans."""
        first_R = (keys.span_M == 0).nonzero().squeeze(1)
        number_M = keys.row_M.unique_consecutive(return_inverse=True)[1]
        whole_MKF = keys.key_MKF[first_R[number_M]]
        around_MKF = around(keys.key_MKF, whole_MKF, keys.share_M, places)
        manner_KMD = torch.bmm((around_MKF - self.mean_KF).transpose(0, 1), self.matrix_KFD)
        has_words_M = keys.share_M < _ALL
        is_known_KM = torch.stack(
            [torch.ones_like(has_words_M) if p.kind == "last" else has_words_M for p in places]
        )
        return (manner_KMD * is_known_KM[..., None]).transpose(0, 1).flatten(1)

    def after(self, projection_GF: Tensor) -> "Evidence":
        """The same for raw keys of width G, with `projection_GF` folded in."""
        mean_KG = torch.linalg.lstsq(projection_GF.T, self.mean_KF.T).solution.T
        return replace(self, mean_KF=mean_KG, matrix_KFD=projection_GF @ self.matrix_KFD)

    def with_common_words(self, other: "Evidence") -> "Evidence":
        """The same, with each word as common as either of the two knows it."""
        return replace(self, rarity_H=torch.minimum(self.rarity_H, other.rarity_H))

    def words(self, texts: Sequence[str], edits: Sequence[Sequence[str | None]]) -> Tensor:
        """words_MEL of each span and the prompts of its candidate edits; 0 for None."""
        zeros = [0.0] * NUM_FIGURES
        words_MEL = torch.tensor(
            [
                [zeros if e is None else compare_words(text, e, self._rarity) for e in prompts]
                for text, prompts in zip(texts, edits, strict=True)
            ]
        ).view(len(texts), -1, NUM_FIGURES)
        return words_MEL[..., : self.figures]

    def inputs(
        self, sim_MEV: Tensor, words_MEL: Tensor, share_M: Tensor, manner_MG: Tensor
    ) -> Tensor:
        """x_MEI: the inputs of the gate. Distances are included as well as cosines, which differ
        little near 1."""
        per_span = torch.cat([share_M[:, None], manner_MG], 1)
        shared = per_span[:, None].expand(-1, sim_MEV.shape[1], -1)
        distance_MEV = (1 - sim_MEV).clamp_min(_NEAREST).sub(_NEAREST).sqrt()
        return torch.cat([sim_MEV, distance_MEV, words_MEL.to(sim_MEV), shared.to(sim_MEV)], -1)

    @cached_property
    def _rarity(self) -> Rarity:
        return Rarity(self.rarity_H)

    def tensors(self) -> dict[str, Tensor]:
        """The evidence as named tensors."""
        return {
            "mean": self.mean_KF.float(),
            "matrix": self.matrix_KFD.float(),
            "plain": self.plain_G.float(),
            "rarity": self.rarity_H.half(),
            "figures": torch.tensor(self.figures),
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> "Evidence":
        """Inverse of `tensors`."""
        mean, matrix, plain = (tensors[name].float() for name in ("mean", "matrix", "plain"))
        figures = tensors.get("figures", torch.tensor(_FIRST_FIGURES))
        return cls(mean, matrix, plain, tensors["rarity"], int(figures))


def share_among(score_ME: Tensor, is_part_ME: Tensor) -> Tensor:
    """The scores of candidates that a span names in part only (bool), given the other candidates: a
    part of a name that several edits bear asks for none of them.

    The gate's log-odds are those of a candidate alone. Of all candidates at most one is meant, so
    its log-odds among them are `score - softplus(logsumexp of the others' scores)`.
    """
    self_EE = torch.eye(score_ME.shape[-1], dtype=torch.bool, device=score_ME.device)
    others_ME = score_ME[:, None].masked_fill(self_EE, -torch.inf).logsumexp(-1)
    shared_ME = score_ME - softplus(others_ME)
    return shared_ME.where(is_part_ME.to(score_ME.device), score_ME)


def around(
    key_MKF: Tensor, whole_MKF: Tensor, share_M: Tensor, places: tuple[KeyPlace, ...]
) -> Tensor:
    """key_MKF float32: at places of kind `last` the keys of the spans, unchanged; elsewhere the
    mean over the words of the message (`whole_MKF`) that are outside the span."""
    share_M11 = share_M[:, None, None].float().clamp(max=1)
    rest_MKF = (whole_MKF.float() - share_M11 * key_MKF) / (1 - share_M11).clamp_min(1 - _ALL)
    is_last_K = torch.tensor([place.kind == "last" for place in places], device=key_MKF.device)
    return torch.where(is_last_K[:, None], key_MKF.float(), rest_MKF)


def input_columns(columns: Sequence[int], num_places: int, views: int, manner: int) -> list[int]:
    """Indices of the gate inputs of the places `columns` (ascending) out of `num_places`, each with
    `views` similarities and `manner` manner inputs."""
    sims = [place * views + view for place in columns for view in range(views)]
    after = 2 * num_places * views
    shared = list(range(after, after + NUM_FIGURES + 1))
    begin = after + NUM_FIGURES + 1
    manners = [begin + place * manner + i for place in columns for i in range(manner)]
    return [*sims, *(num_places * views + i for i in sims), *shared, *manners]


def manner_begin(inputs: int, views: int, manner: int) -> int:
    """Index of the first manner input among `inputs` gate inputs, with `views` similarities and
    `manner` manner inputs per place."""
    places = (inputs - NUM_FIGURES - 1) // (2 * views + manner)
    return inputs - places * manner
