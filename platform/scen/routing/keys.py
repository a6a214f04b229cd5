"""Keys of prompts: read from the base at several places and encoded for search.

Suffixes: N and B prompts, M spans, K places, F dimensions of a raw key, C of a compact key, J of
the joined first views, D of a search key, V similarities, H views per place, E edits.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from scen.model.base import Base
from scen.model.decoder import NO_SYNC, RankSync
from scen.model.keys import KeyKind, KeyPlace, SpanKeys, join_spans, read_keys, read_span_keys
from scen.model.prefill import prefill_keys, prefill_prompts
from scen.records import EncodedPrompt, digest_bytes

BATCH = 32
"""Prompts per batch."""

_TOKENS = 2560  # limit of a batch of long prompts, padding included


def batch_prompts(prompts: Sequence[EncodedPrompt], batch_size: int = BATCH) -> list[list[int]]:
    """Indices of the prompts of each batch, grouped by length."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i].ids))
    return [order[begin : begin + batch_size] for begin in range(0, len(order), batch_size)]


def read_prompt_keys(
    base: Base,
    places: tuple[KeyPlace, ...],
    prompts: Sequence[str],
    batch_size: int = BATCH,
    progress: Callable[[int], None] = lambda _: None,
    sync: RankSync = NO_SYNC,
) -> Tensor:
    """key_NKF float16 of N prompts, in input order. `progress` is called with each batch's size."""
    encoded = [base.template.encode_prompt(prompt) for prompt in prompts]
    batches = batch_prompts(encoded, batch_size)
    parts = []
    for rows in batches:
        batch, layers = [encoded[i] for i in rows], [place.layer for place in places]
        filled = prefill_prompts(base.model, batch, base.pad_id, layers[0], layers, sync)
        parts.append(read_keys(filled, places).half().cpu())
        progress(len(rows))
    return torch.cat(parts)[torch.tensor(list(itertools.chain(*batches))).argsort()]


def read_prompt_spans(
    base: Base,
    places: tuple[KeyPlace, ...],
    prompts: Sequence[EncodedPrompt],
    progress: Callable[[int], None] = lambda _: None,
) -> SpanKeys:
    """The keys (float16) of all spans of N prompts, in input order. `progress` is called with each
    batch's size."""
    parts: list[SpanKeys] = []
    for rows in _long_batches(prompts):
        batch, layers = [prompts[i] for i in rows], [place.layer for place in places]
        filled = prefill_keys(base.model, batch, base.pad_id, layers)
        keys = read_span_keys(filled, places).to(torch.device("cpu"))
        numbers_N = torch.tensor(rows)
        key_MKF = keys.key_MKF.half()
        parts.append(replace(keys, key_MKF=key_MKF, row_M=numbers_N[keys.row_M]))
        progress(len(rows))
    joined = join_spans(parts)
    return joined.take(joined.row_M.argsort(stable=True))


def _long_batches(prompts: Sequence[EncodedPrompt]) -> list[list[int]]:
    """Batches of prompts of similar length, smaller where prompts are long."""
    batches: list[list[int]] = [[]]
    for index in sorted(range(len(prompts)), key=lambda i: len(prompts[i].ids)):
        size = len(prompts[index].ids)
        if len(batches[-1]) == BATCH or (len(batches[-1]) + 1) * size > max(_TOKENS, size):
            batches.append([])
        batches[-1].append(index)
    return [batch for batch in batches if batch]


WIDTH = 256
"""Bytes of UTF-8 kept per text; the rest is not compared."""


def pack_texts(texts: Sequence[str]) -> Tensor:
    """text_EB uint8: each text as UTF-8, truncated to B bytes and zero-padded."""
    rows = torch.zeros(len(texts), WIDTH, dtype=torch.uint8)
    for row, text in zip(rows, texts, strict=True):
        data = text.encode()[:WIDTH]
        row[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else 0
    return rows


def unpack_texts(text_EB: Tensor) -> list[str]:
    """Inverse of `pack_texts`; a character split by truncation is dropped."""
    return [
        bytes(row.tolist()).rstrip(b"\0").decode(errors="ignore")
        for row in text_EB.to(torch.uint8).unbind()
    ]


_TINY = torch.finfo(torch.float32).tiny  # floor for keys without variance: they are only centred


@dataclass(frozen=True)
class Whitening:
    """Whitening with shrinkage of the keys at K places, in low-rank form.

    Without whitening the keys of all prompts point the same way, and the nearest edit is almost
    arbitrary. The covariance at each place is modelled as `axis diag(var) axis' + floor I`:
    `axis_KNF` are N orthonormal directions, `keep_KN` the factor by which each is scaled relative
    to the complement. Memory grows with the number of sampled prompts, not with F squared.
    """

    mean_KF: Tensor
    axis_KNF: Tensor
    keep_KN: Tensor

    @classmethod
    def fit(cls, sample_NKF: Tensor, shrinkage: float) -> "Whitening":
        """Fit to the keys of N prompts. `shrinkage` is the floor relative to the mean variance of
        the sampled directions; larger values trust the sample less."""
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
"""Upper limit of D. Among 1,000 edits and 16,000 other prompts, a fitted projection from 512 to 128
dimensions retrieves the same edits as all 512; one to 64 misses four edits in a thousand."""

_KINDS: tuple[KeyKind, ...] = ("mean", "last", "span")


@dataclass(frozen=True)
class KeyEncoder:
    """At each place, the centred raw key times a matrix, split into unit-length views.

    A view is a range of the C columns (`widths`, in order): one may separate subjects, another
    questions. Prompts are compared view by view. Candidates are retrieved by one short search key:
    the first views of all places times `search_JD`.
    """

    places: tuple[KeyPlace, ...]
    widths: tuple[int, ...]
    mean_KF: Tensor
    matrix_KFC: Tensor
    search_JD: Tensor

    @property
    def num_views(self) -> int:
        """V = K times H, the number of similarities of two prompts."""
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

    @cached_property
    def number(self) -> int:
        """A 63-bit number of what turns raw into compact keys: equal for equal encoders."""
        parts = (self.mean_KF.float(), self.matrix_KFC.half(), torch.tensor(self.widths))
        data = b"".join(part.cpu().contiguous().numpy().tobytes() for part in parts)
        return int(digest_bytes(data)[:16], 16) >> 1

    def first_views(self, code_BKC: Tensor) -> Tensor:
        """key_BJ: the first views of all places, joined."""
        return code_BKC[..., : self.widths[0]].flatten(1)

    def search_key(self, code_BKC: Tensor) -> Tensor:
        """Unit-length key_BD, by which candidates are retrieved."""
        key_BD = self.first_views(code_BKC) @ self.search_JD
        return torch.nn.functional.normalize(key_BD, dim=-1)

    def searching_by(self, search_JD: Tensor) -> "KeyEncoder":
        """The same encoder with another projection to search keys; its scale is irrelevant."""
        return replace(self, search_JD=_through_half(search_JD, (0, 1)))

    def after(self, projection_GF: Tensor) -> "KeyEncoder":
        """The same for raw keys of width G, with `projection_GF` folded in."""
        mean_KG = torch.linalg.lstsq(projection_GF.T, self.mean_KF.T).solution.T
        matrix_KGC = _through_half(projection_GF @ self.matrix_KFC, (1, 2))
        return replace(self, mean_KF=mean_KG, matrix_KFC=matrix_KGC)

    def compare(self, code_BKC: Tensor, other_BEKC: Tensor) -> Tensor:
        """sim_BEV: the cosines of the views of each prompt and its E candidates, place by place."""
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
        """Inverse of `tensors`."""
        places = tuple(KeyPlace(layer, _KINDS[kind]) for layer, kind in tensors["places"].tolist())
        widths = tuple(tensors["widths"].tolist())
        mean_KF, matrix_KFC = tensors["mean"].float(), tensors["matrix"].float()
        return cls(places, widths, mean_KF, matrix_KFC, tensors["search"].float())


def compose_encoder(
    whitening: Whitening, places: tuple[KeyPlace, ...], views: list[Tensor]
) -> KeyEncoder:
    """The encoder that whitens and then applies the views, each [K, F, width].

    Its search keys are the joined first views, or a random projection of them to SEARCH_WIDTH.
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
    """[K, F, C]: a random projection, which nearly preserves cosines (Johnson and Lindenstrauss
    1984)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(places, width_F, width_C, generator=generator) / math.sqrt(width_C)


def _through_half(matrix: Tensor, dims: tuple[int, ...]) -> Tensor:
    """The matrix scaled to a largest entry of 1 and rounded to half precision, as in storage, so
    that calibration and serving use the same values."""
    return (matrix / matrix.abs().amax(dims, keepdim=True)).half().float()
