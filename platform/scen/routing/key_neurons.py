"""The neurons of many edits as compact keys: a few near ones are found, the gate chooses."""

from dataclasses import dataclass

import torch
from torch import Tensor

from scen.editor.keys import read_keys
from scen.editor.prefill import Prefill
from scen.editor.route import Route
from scen.routing.build_search import build_search
from scen.routing.key_bank import KeyBank, quantise
from scen.routing.router import Router
from scen.routing.search import Search

CANDIDATES = 16
"""Edits that the gate looks at: those whose search keys are nearest to the prompt's."""


@dataclass(frozen=True)
class Codes:
    """The stored form of compact keys: `int8_EKC`, and `scale_EKH` float32 per view."""

    int8_EKC: Tensor
    scale_EKH: Tensor

    @classmethod
    def of(cls, code_EKC: Tensor, widths: tuple[int, ...]) -> "Codes":
        """Each view in 8 bits; its largest number becomes 127."""
        rows, places = code_EKC.shape[:2]
        parts = [quantise(view.flatten(0, 1)) for view in code_EKC.split(widths, -1)]
        int8_EKC = torch.cat([q.view(rows, places, q.shape[-1]) for q, _ in parts], -1)
        return cls(int8_EKC, torch.stack([s.view(rows, places) for _, s in parts], -1))

    def take(self, index: Tensor, widths: tuple[int, ...]) -> Tensor:
        """code [..., K, C] float32 of the edits at these indices."""
        scale = self.scale_EKH[index].repeat_interleave(torch.tensor(widths), -1)
        return self.int8_EKC[index] * scale

    @property
    def bytes_per_edit(self) -> int:
        """Of the compact keys of one edit."""
        return self.int8_EKC[0].numel() + 4 * self.scale_EKH[0].numel()


@dataclass(frozen=True)
class Choice:
    """What the gate saw for B prompts: `index_BE` of the edits looked at (-1: none), best first,
    their `score_BE`, and `sim_BEV`, the similarities behind each."""

    index_BE: Tensor
    score_BE: Tensor
    sim_BEV: Tensor

    @classmethod
    def nothing(cls, rows: int, k: int, num_views: int) -> "Choice":
        """Where there are no edits."""
        index_BE = torch.full((rows, k), -1)
        score_BE = torch.full((rows, k), -torch.inf)
        return cls(index_BE, score_BE, torch.zeros(rows, k, num_views))


@dataclass(frozen=True)
class KeyNeurons:
    """The neurons of E edits under a router. `search` finds candidates by the search keys."""

    router: Router
    codes: Codes
    search: Search

    @classmethod
    def build(cls, router: Router, key_EKF: Tensor) -> "KeyNeurons":
        """The neurons of the edits with these raw keys."""
        encoder = router.encoder
        parts = [Codes.of(encoder(part), encoder.widths) for part in key_EKF.split(4096)]
        codes = Codes(
            torch.cat([part.int8_EKC for part in parts]),
            torch.cat([part.scale_EKH for part in parts]),
        )
        return cls.of_codes(router, codes)

    @classmethod
    def of_codes(cls, router: Router, codes: Codes) -> "KeyNeurons":
        """The neurons with these compact keys."""
        encoder = router.encoder
        bank = KeyBank(encoder.search_JD.shape[1], max(len(codes.int8_EKC), 1))
        for rows in torch.arange(len(codes.int8_EKC)).split(4096):
            bank.append(encoder.search_key(codes.take(rows, encoder.widths)))
        return cls(router, codes, build_search(bank.snapshot()))

    @property
    def layers(self) -> frozenset[int]:
        """The layers whose keys are read."""
        return self.router.encoder.layers

    def __len__(self) -> int:
        return len(self.codes.int8_EKC)

    def choose(self, key_BKF: Tensor, k: int = CANDIDATES) -> Choice:
        """The k nearest edits of each prompt, as the gate ranks them. `key_BKF` are raw keys."""
        return self.choose_by_code(self.router.encoder(key_BKF.to(self.codes.scale_EKH.device)), k)

    def choose_by_code(self, code_BKC: Tensor, k: int = CANDIDATES) -> Choice:
        """The same from compact keys, such as those of stored edits."""
        encoder = self.router.encoder
        if len(self) == 0:
            return Choice.nothing(len(code_BKC), k, encoder.num_views)
        index_BE = self.search.search(encoder.search_key(code_BKC), k)[1]
        sim_BEV = encoder.compare(code_BKC, self.codes.take(index_BE.clamp_min(0), encoder.widths))
        score_BE = self.router.gate(sim_BEV).masked_fill(index_BE < 0, -torch.inf)
        score_BE, place_BE = score_BE.sort(dim=1, descending=True, stable=True)
        sim_BEV = sim_BEV.gather(1, place_BE[..., None].expand_as(sim_BEV))
        return Choice(index_BE.gather(1, place_BE), score_BE, sim_BEV)

    def route(self, filled: Prefill) -> Route:
        """The likeliest edit of each row, where its score is above the threshold."""
        device = filled.logits_BV.device
        if len(self) == 0:
            return Route.base(len(filled.batch), device)
        choice = self.choose(read_keys(filled, self.router.encoder.places))
        index_B2, score_B2 = choice.index_BE[:, :2].to(device), choice.score_BE[:, :2].to(device)
        chosen_B2 = index_B2.masked_fill(score_B2 <= self.router.threshold, -1)
        return Route(chosen_B2[:, 0], score_B2[:, 0], index_B2[:, 0], chosen_B2[:, 1])
