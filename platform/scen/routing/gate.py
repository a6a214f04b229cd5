"""The gate: one score for a prompt and an edit, by weights that all edits share, and its inputs.

Inputs besides key similarities are the manner of a message and shared words. Whether a message asks
a question or is a task about it shows in what the base is about to do (the last prompt token) and
in the words around the span. Keys hardly distinguish numbers, and typos move them far; words do
not.

Suffixes: M spans, E candidate edits, V similarities and other inputs, L figures of words, K places,
F numbers of a raw key, D numbers of a manner, G those of all places, I inputs, S hidden units, H
buckets of words.
"""

import functools
import math
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from rapidfuzz.distance import OSA
from torch import Tensor
from torch.nn.functional import gelu

from scen.model.keys import KeyPlace, SpanKeys

_SPREAD = 3.0  # cosines differ by tenths; the hidden units want more


@dataclass(frozen=True)
class Gate:
    """score = x . direct + out . h + offset, with h = gelu(3 x . hidden + bias); or, where there is
    a second layer, h = gelu(gelu(x . hidden + bias) . inner + inner_bias). Larger is likelier.

    Trained gates give the log-odds, for classes of even weight, that the prompt asks for the
    edit's fact. Without hidden units it is a weighted sum.
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
        none = torch.zeros(0)
        direct_V = torch.full((num_views,), 1 / num_views)
        return cls(direct_V, torch.zeros(num_views, 0), none, none, torch.zeros(()))

    @classmethod
    def initial(cls, num_views: int, hidden: int, seed: int, *, is_deep: bool = False) -> "Gate":
        """A gate to start training from; `is_deep`: with a second layer."""
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
        """The mean of the scores of several gates of one form, as one gate whose hidden units are
        those of all."""
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
        """The scores of any number of pairs; the last dimension of `x_V` is V."""
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
        """The gate that `tensors` described."""
        names = ("direct", "hidden", "bias", "out", "offset", "inner", "inner_bias")
        return cls(*(tensors[name] for name in names if name in tensors))


NUM_FIGURES = 10
"""L."""

_BUCKETS = 8192
_STEM = 6  # leading letters that identify a word, so that endings do not matter
_WORD = re.compile(r"[^\W_]+")
_NEAR = 0.6  # similarity below which two words count as unrelated
_LONGEST = 3.0  # length of a span relative to the edit at which the figure saturates


def fit_rarity(texts: Iterable[str]) -> Tensor:
    """rarity_H float16 between 0 and 1: inverse document frequencies of hashed words."""
    counts: Counter[int] = Counter()
    total = 0
    for text in texts:
        total += 1
        counts.update({_bucket(word) for word in words_of(text)})
    top = math.log(total + 1)
    rarity_H = torch.ones(_BUCKETS)
    for bucket, count in counts.items():
        rarity_H[bucket] = math.log((total + 1) / (count + 1)) / top
    return rarity_H.half()


def compare_words(span: str, edit: str, rarity: Sequence[float]) -> list[float]:
    """The L figures of a span and an edit's prompt, all between 0 and 1.

    Shares, weighted by rarity, of the edit's words that occur in the span and vice versa; the same
    by trigrams of letters; shares of either's numbers that the other lacks; the rarest word of
    either that the other lacks; whether both start with the same word; and the length of the span.
    """
    ours, theirs = words_of(span), words_of(edit)
    if not ours or not theirs:
        return [0.0] * NUM_FIGURES
    our_rarity = [rarity[_bucket(word)] for word in ours]
    their_rarity = [rarity[_bucket(word)] for word in theirs]
    ours_matched, theirs_matched = _matches(ours, theirs), _matches(theirs, ours)
    our_letters, their_letters = _letters(span), _letters(edit)
    shared = len(our_letters & their_letters)
    return [
        _share(their_rarity, theirs_matched),
        _share(our_rarity, ours_matched),
        shared / len(their_letters),
        shared / len(our_letters),
        _missing_numbers(theirs, ours),
        _missing_numbers(ours, theirs),
        _rarest(their_rarity, theirs_matched),
        _rarest(our_rarity, ours_matched),
        float(ours[0] == theirs[0]),
        min(len(ours) / len(theirs), _LONGEST) / _LONGEST,
    ]


@functools.lru_cache(65536)
def words_of(text: str) -> tuple[str, ...]:
    """The different words of a text, case-folded, in their order."""
    return tuple(dict.fromkeys(_WORD.findall(text.casefold())))


@functools.lru_cache(65536)
def _bucket(word: str) -> int:
    stem = word if word.isdigit() else word[:_STEM]
    return zlib.crc32(stem.encode()) % _BUCKETS


@functools.lru_cache(65536)
def _trigrams(word: str) -> frozenset[str]:
    marked = f"^{word}$"
    return frozenset(marked[i : i + 3] for i in range(len(marked) - 2))


@functools.lru_cache(65536)
def _letters(text: str) -> frozenset[str]:
    return frozenset().union(*map(_trigrams, words_of(text)))


@functools.lru_cache(1 << 18)
def _similarity(word: str, other: str) -> float:
    """Of two different words: 1 where only the ending differs, less for a typo (optimal string
    alignment distance), else 0. Numbers never match."""
    if word.isdigit() or other.isdigit():
        return 0.0
    if len(word) >= _STEM and word[:_STEM] == other[:_STEM]:
        return 1.0
    return OSA.normalized_similarity(word, other, score_cutoff=_NEAR)


def _matches(words: Sequence[str], others: Sequence[str]) -> list[float]:
    """The similarity of each word to the most similar of the others."""
    known = set(others)
    return [
        1.0 if word in known else max(_similarity(word, other) for other in others)
        for word in words
    ]


def _share(rarity: Sequence[float], matched: Sequence[float]) -> float:
    total = sum(rarity)
    return sum(r * m for r, m in zip(rarity, matched, strict=True)) / total if total else 0.0


def _rarest(rarity: Sequence[float], matched: Sequence[float]) -> float:
    return max((r * (1 - m) for r, m in zip(rarity, matched, strict=True)), default=0.0)


def _missing_numbers(words: Sequence[str], others: Sequence[str]) -> float:
    numbers = [word for word in words if word.isdigit()]
    return sum(word not in others for word in numbers) / len(numbers) if numbers else 0.0


def trigram_similarity(text: str, other: str) -> float:
    """Between 0 and 1: the share of trigrams of letters that two texts have in common (Dice)."""
    ours, theirs = _letters(text), _letters(other)
    return 2 * len(ours & theirs) / max(len(ours) + len(theirs), 1)


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
