"""The neurons of many edits as compact keys: a few near ones are found, the gate chooses."""

from dataclasses import dataclass

import torch
from torch import Tensor

from scen.editor.keys import read_keys
from scen.editor.prefill import Prefill
from scen.editor.route import Route
from scen.routing.codes import Codes
from scen.routing.growing_neurons import GrowingNeurons
from scen.routing.router import Router
from scen.routing.search import Search

CANDIDATES = 16
"""Edits that the gate looks at: those whose search keys are nearest to the prompt's."""


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
    """The neurons of E edits under a router: those at rows `row_E` (int64, rising) of a bank.

    `codes` are those of the bank; `search` finds candidates among the E by their search keys.
    """

    router: Router
    codes: Codes
    search: Search
    row_E: Tensor

    @classmethod
    def build(cls, router: Router, key_EKF: Tensor) -> "KeyNeurons":
        """The neurons of the edits with these raw keys."""
        bank = GrowingNeurons(router, len(key_EKF))
        for part in key_EKF.split(4096):
            bank.append(Codes.of(router.encoder(part), router.encoder.widths))
        return cls.of_rows(bank, torch.arange(len(bank)))

    @classmethod
    def of_rows(cls, bank: GrowingNeurons, row_E: Tensor) -> "KeyNeurons":
        """The neurons at these rows of a bank as they are now; nothing changes them."""
        return cls(bank.router, bank.codes(), bank.search(row_E), row_E)

    @property
    def layers(self) -> frozenset[int]:
        """The layers whose keys are read."""
        return self.router.encoder.layers

    def __len__(self) -> int:
        return len(self.row_E)

    def code(self, index: Tensor) -> Tensor:
        """code [..., K, C] float32 of the edits at these indices, as it is stored."""
        return self.codes.take(self.row_E[index], self.router.encoder.widths)

    def choose(self, key_BKF: Tensor, k: int = CANDIDATES) -> Choice:
        """The k nearest edits of each prompt, as the gate ranks them. `key_BKF` are raw keys."""
        return self.choose_by_code(self.router.encoder(key_BKF.to(self.codes.scale_EKH.device)), k)

    def choose_by_code(self, code_BKC: Tensor, k: int = CANDIDATES) -> Choice:
        """The same from compact keys, such as those of stored edits."""
        encoder = self.router.encoder
        if len(self) == 0:
            return Choice.nothing(len(code_BKC), k, encoder.num_views)
        row_BE = self.search.search(encoder.search_key(code_BKC), k)[1]
        sim_BEV = encoder.compare(code_BKC, self.codes.take(row_BE.clamp_min(0), encoder.widths))
        score_BE = self.router.gate(sim_BEV).masked_fill(row_BE < 0, -torch.inf)
        index_BE = torch.searchsorted(self.row_E, row_BE).masked_fill(row_BE < 0, -1)
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
