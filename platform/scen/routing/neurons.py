"""The neurons of many edits as compact keys: search retrieves a few candidates, the gate scores
them.

Suffixes: B prompts, M spans, E edits, N rows of the bank, K places, F dimensions of a raw key, C of
a compact key, V similarities.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scen.errors import ConfigError
from scen.model.keys import SpanKeys, read_span_keys
from scen.model.prefill import Prefill
from scen.model.route import Route
from scen.routing.gate import share_among
from scen.routing.key_bank import UNIT, Codes, KeyBank, RowBuffer
from scen.routing.keys import KeyEncoder
from scen.routing.router import Router
from scen.routing.search import Search, build_search
from scen.routing.words import names_in_part

NO_TEXT = ""
"""The text of an edit whose words are unknown: it overlaps with no span."""

_PART = 4096  # edits whose search keys are computed at a time


class NeuronBuffer:
    """Compact keys, search keys and texts of all edits that a process has loaded; append-only.

    The neurons of one version of a store are an immutable view of it. Only one thread at a time may
    append and search. An index built for one view is reused by later ones.
    """

    def __init__(self, router: Router, capacity: int = UNIT) -> None:
        encoder = router.encoder
        places, widths = len(encoder.places), encoder.widths
        like = (
            torch.empty(0, places, sum(widths), dtype=torch.int8),
            torch.empty(0, places, len(widths)),
        )
        self.router = router
        self._codes = RowBuffer(like, capacity)
        self._keys = KeyBank(encoder.search_JD.shape[1], max(capacity, 1))
        self._search: Search | None = None
        self._texts: list[str] = []

    def __len__(self) -> int:
        """N, hidden rows included."""
        return len(self._codes)

    def append(self, codes: Codes, texts: Sequence[str] | None = None) -> range:
        """Append edits and return their rows. `texts` are their prompts in the form that is routed.
        Raises ConfigError if a key is not finite; nothing is added then."""
        encoder = self.router.encoder
        parts = torch.arange(len(codes)).split(_PART)
        keys = [encoder.search_key(codes.take(part, encoder.widths)) for part in parts]
        self._codes.reserve(len(codes))  # allocate first, so that a failure leaves both unchanged
        self._keys.append(torch.cat(keys))
        self._texts.extend(texts if texts is not None else [NO_TEXT] * len(codes))
        return self._codes.append(codes.int8_EKC, codes.scale_EKH)

    def codes(self) -> Codes:
        """The compact keys of all current rows."""
        count, parts = self._codes.view()
        return Codes(*(part[:count] for part in parts))

    def texts(self) -> Sequence[str]:
        """The texts of all rows; grows with the bank, entries never change."""
        return self._texts

    def search(self, row_E: Tensor) -> Search:
        """A search of the current rows that returns only those at `row_E`."""
        self._search = build_search(self._keys.snapshot(row_E), self._search)
        return self._search

    def picked(self, row_E: Tensor) -> "NeuronBuffer":
        """A new bank of these rows, in this order."""
        other = NeuronBuffer(self.router, len(row_E))
        codes = self.codes()
        for part in row_E.split(_PART):
            other._keys.copy_from(self._keys, part)
            other._codes.append(codes.int8_EKC[part], codes.scale_EKH[part])
        other._texts = [self._texts[row] for row in row_E.tolist()]
        return other


def compact_form(key_EKF: Tensor, encoder: KeyEncoder) -> dict[str, Tensor]:
    """The tensors of a bundle that hold the compact keys of E edits, and whose encoder's they
    are."""
    codes = Codes.of(encoder(key_EKF.float()), encoder.widths)
    return {
        "code": codes.int8_EKC,
        "code_scale": codes.scale_EKH,
        "code_encoder": torch.full((len(codes),), encoder.number),
    }


def bundle_codes(bundle: Mapping[str, Tensor], rows: list[int], encoder: KeyEncoder) -> Codes:
    """The compact keys of these rows of a bundle: as stored, or made from its raw keys. Raises
    ConfigError if it holds only compact keys of another encoder."""
    if "code" in bundle:
        if bool((bundle["code_encoder"][rows] != encoder.number).any()):
            raise ConfigError(
                "router: the edits of this store have compact keys of another router only; a store "
                "with router.raw_keys=true can be used with any router (`scen rebase` makes one)"
            )
        return Codes(bundle["code"][rows], bundle["code_scale"][rows])
    return Codes.of(encoder(bundle["key"][rows].float()), encoder.widths)


CANDIDATES = 16
"""Edits scored by the gate: those whose search keys are nearest to the prompt's."""


@dataclass(frozen=True)
class Choice:
    """Candidate edits of B prompts: `index_BE` (-1: none), best first, their gate scores
    `score_BE`, and the similarities `sim_BEV` behind each."""

    index_BE: Tensor
    score_BE: Tensor
    sim_BEV: Tensor

    @classmethod
    def empty(cls, rows: int, k: int, num_views: int) -> "Choice":
        """The choice where there are no edits."""
        index_BE = torch.full((rows, k), -1)
        score_BE = torch.full((rows, k), -torch.inf)
        return cls(index_BE, score_BE, torch.zeros(rows, k, num_views))


@dataclass(frozen=True)
class KeyNeurons:
    """The neurons of E edits under a router: rows `row_E` (int64, ascending) of a bank.

    `codes` and `texts` are those of the whole bank; `search` retrieves candidates among the E
    edits.
    """

    router: Router
    codes: Codes
    search: Search
    row_E: Tensor
    texts: Sequence[str]

    @classmethod
    def build(
        cls, router: Router, key_EKF: Tensor, texts: Sequence[str] | None = None
    ) -> "KeyNeurons":
        """The neurons of the edits with these raw keys and prompts (in the form that is routed)."""
        bank, encoder = NeuronBuffer(router, len(key_EKF)), router.encoder
        for part in key_EKF.split(_PART):
            words = None if texts is None else texts[len(bank) : len(bank) + len(part)]
            bank.append(Codes.of(encoder(part), encoder.widths), words)
        return cls.of_rows(bank, torch.arange(len(bank)))

    @classmethod
    def of_codes(
        cls, router: Router, codes: Codes, texts: Sequence[str] | None = None
    ) -> "KeyNeurons":
        """As `build`, from compact keys."""
        bank = NeuronBuffer(router, len(codes))
        bank.append(codes, texts)
        return cls.of_rows(bank, torch.arange(len(bank)))

    @classmethod
    def of_rows(cls, bank: NeuronBuffer, row_E: Tensor) -> "KeyNeurons":
        """An immutable view of these rows of a bank."""
        return cls(bank.router, bank.codes(), bank.search(row_E), row_E, bank.texts())

    @property
    def layers(self) -> frozenset[int]:
        """The layers whose keys are read."""
        return self.router.encoder.layers

    def __len__(self) -> int:
        return len(self.row_E)

    def code(self, index: Tensor) -> Tensor:
        """code [..., K, C] float32 of the edits at these indices, dequantised."""
        return self.codes.take(self.row_E[index], self.router.encoder.widths)

    def text(self, index: int) -> str:
        """The prompt of the edit at this index, in the form that is routed."""
        return self.texts[int(self.row_E[index])]

    def choose(
        self, key_BKF: Tensor, k: int = CANDIDATES, texts: Sequence[str] | None = None
    ) -> Choice:
        """The k nearest edits of each whole prompt, ranked by the gate. `key_BKF` are raw keys,
        `texts` the prompts in the form that is routed."""
        known = texts if texts is not None else [NO_TEXT] * len(key_BKF)
        return self.choose_spans(SpanKeys.of_whole(key_BKF, known), k)

    def choose_spans(self, keys: SpanKeys, k: int = CANDIDATES) -> Choice:
        """As `choose`, for spans: the rows of the choice are spans."""
        router, device = self.router, self.codes.scale_EKH.device
        code_MKC = router.encoder(keys.key_MKF.to(device))
        around = None
        if router.evidence is not None:
            manner_MG = router.evidence.manner(keys.to(device), router.encoder.places)
            around = Around(keys.texts, keys.share_M.to(device), manner_MG)
        return self._choose(code_MKC, k, around)

    def choose_by_code(
        self, code_BKC: Tensor, k: int = CANDIDATES, texts: Sequence[str] | None = None
    ) -> Choice:
        """As `choose`, from compact keys, such as those of stored edits: bare questions."""
        if self.router.evidence is None:
            return self._choose(code_BKC, k, None)
        count, plain_G = len(code_BKC), self.router.evidence.plain_G
        known = tuple(texts) if texts is not None else (NO_TEXT,) * count
        alone = Around(known, torch.ones(count), plain_G.expand(count, -1))
        return self._choose(code_BKC, k, alone)

    def _choose(self, code_BKC: Tensor, k: int, around: "Around | None") -> Choice:
        encoder, evidence = self.router.encoder, self.router.evidence
        if len(self) == 0:
            return Choice.empty(len(code_BKC), k, encoder.num_views)
        row_BE = self.search.search(encoder.search_key(code_BKC), k)[1]
        sim_BEV = encoder.compare(code_BKC, self.codes.take(row_BE.clamp_min(0), encoder.widths))
        x_BEI, is_part_BE = sim_BEV, torch.zeros_like(row_BE, dtype=torch.bool)
        if evidence is not None and around is not None:
            edits = [[self.texts[r] if r >= 0 else None for r in rows] for rows in row_BE.tolist()]
            words_BEL = evidence.words(around.texts, edits)
            x_BEI = evidence.inputs(sim_BEV, words_BEL, around.share_M, around.manner_MG)
            is_part_BE = names_in_part(words_BEL)
        score_BE = self.router.gate(x_BEI).masked_fill(row_BE < 0, -torch.inf)
        score_BE = share_among(score_BE, is_part_BE)
        index_BE = torch.searchsorted(self.row_E, row_BE).masked_fill(row_BE < 0, -1)
        score_BE, place_BE = score_BE.sort(dim=1, descending=True, stable=True)
        sim_BEV = sim_BEV.gather(1, place_BE[..., None].expand_as(sim_BEV))
        return Choice(index_BE.gather(1, place_BE), score_BE, sim_BEV)

    def route(self, filled: Prefill) -> Route:
        """The best-scoring edit of each row over its spans, if it is above the threshold."""
        device, rows = filled.logits_BV.device, len(filled.batch)
        if len(self) == 0:
            return Route.base(rows, device)
        return self.route_keys(read_span_keys(filled, self.router.encoder.places), rows).to(device)

    def route_keys(self, keys: SpanKeys, rows: int) -> Route:
        """As `route`, from the keys of the spans of `rows` prompts, at least one span each."""
        choice = self.choose_spans(keys)
        device = choice.score_BE.device
        best = best_spans(choice, keys.row_M.to(device), rows)
        chosen_B2 = best.index_B2.masked_fill(best.score_B2 <= self.router.threshold, -1)
        return Route(
            chosen_B2[:, 0],
            best.score_B2[:, 0],
            best.index_B2[:, 0],
            chosen_B2[:, 1],
            keys.span_M.to(device)[best.at_B],
        )


@dataclass(frozen=True)
class Around:
    """What the gate sees of M spans besides keys: their words, their share of the message, and the
    message's manner."""

    texts: Sequence[str]
    share_M: Tensor
    manner_MG: Tensor


@dataclass(frozen=True)
class BestSpans:
    """The best edit of each prompt and the runner-up (`index_B2`, -1: none), their scores, and the
    span at which the best one has its score (`at_B`, index among all spans)."""

    index_B2: Tensor
    score_B2: Tensor
    at_B: Tensor


def best_spans(choice: Choice, row_M: Tensor, rows: int) -> BestSpans:
    """The best edits over all spans of each prompt; ties go to the first span."""
    count_B = row_M.bincount(minlength=rows)
    begin_B = count_B.cumsum(0) - count_B
    place_M = torch.arange(len(row_M), device=row_M.device) - begin_B[row_M]
    most, k = int(count_B.max()), choice.score_BE.shape[1]
    score_BNE = choice.score_BE.new_full((rows, most, k), -torch.inf)
    index_BNE = choice.index_BE.new_full((rows, most, k), -1)
    score_BNE[row_M, place_M], index_BNE[row_M, place_M] = choice.score_BE, choice.index_BE
    score_BX, index_BX = score_BNE.flatten(1), index_BNE.flatten(1)
    first_B1 = score_BX.argmax(1, keepdim=True)
    index_B1 = index_BX.gather(1, first_B1)
    others_BX = score_BX.masked_fill(index_BX == index_B1, -torch.inf)
    second_B1 = others_BX.argmax(1, keepdim=True)
    second_score_B1 = others_BX.gather(1, second_B1)
    second_index_B1 = index_BX.gather(1, second_B1).masked_fill(second_score_B1.isinf(), -1)
    return BestSpans(
        torch.cat([index_B1, second_index_B1], 1),
        torch.cat([score_BX.gather(1, first_B1), second_score_B1], 1),
        begin_B + first_B1[:, 0] // k,
    )
