"""The neurons of all edits that a process has met, in one bank that grows; those of a version of a
store are a view of it.

Suffixes: N rows of the bank, E edits of a version.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from scen.routing.build_search import build_search
from scen.routing.codes import Codes
from scen.routing.growing_rows import UNIT, GrowingRows
from scen.routing.key_bank import KeyBank
from scen.routing.router import Router
from scen.routing.search import Search

NO_TEXT = ""
"""Of an edit whose words are not known: nothing has them in common."""

_PART = 4096  # edits whose search keys are made at a time


class GrowingNeurons:
    """The compact keys, search keys and words of edits, appended in place, in the order of arrival.

    One thread may append and search at a time. What a view is made of never changes, and an index
    that was built for one view serves the later ones.
    """

    def __init__(self, router: Router, capacity: int = UNIT) -> None:
        encoder = router.encoder
        places, widths = len(encoder.places), encoder.widths
        like = (
            torch.empty(0, places, sum(widths), dtype=torch.int8),
            torch.empty(0, places, len(widths)),
        )
        self.router = router
        self._codes = GrowingRows(like, capacity)
        self._keys = KeyBank(encoder.search_JD.shape[1], max(capacity, 1))
        self._search: Search | None = None
        self._texts: list[str] = []

    def __len__(self) -> int:
        """N, hidden rows included."""
        return len(self._codes)

    def append(self, codes: Codes, texts: Sequence[str] | None = None) -> range:
        """Add edits behind the others; their rows. `texts` are their prompts as they are routed.
        Raises ConfigError where a key is not finite; nothing is added then."""
        encoder = self.router.encoder
        parts = torch.arange(len(codes)).split(_PART)
        keys = [encoder.search_key(codes.take(part, encoder.widths)) for part in parts]
        self._codes.reserve(len(codes))  # what fails must fail before one of the two has grown
        self._keys.append(torch.cat(keys))
        self._texts.extend(texts if texts is not None else [NO_TEXT] * len(codes))
        return self._codes.append(codes.int8_EKC, codes.scale_EKH)

    def codes(self) -> Codes:
        """The compact keys of all rows as they are now."""
        count, parts = self._codes.view()
        return Codes(*(part[:count] for part in parts))

    def texts(self) -> Sequence[str]:
        """The words of all rows; grows with the bank, and what is there never changes."""
        return self._texts

    def search(self, row_E: Tensor) -> Search:
        """A search of all rows as they are now that finds those at `row_E` only."""
        self._search = build_search(self._keys.snapshot(row_E), self._search)
        return self._search

    def picked(self, row_E: Tensor) -> "GrowingNeurons":
        """A bank of its own with these rows, in this order."""
        other = GrowingNeurons(self.router, len(row_E))
        codes = self.codes()
        for part in row_E.split(_PART):
            other._keys.copy_from(self._keys, part)
            other._codes.append(codes.int8_EKC[part], codes.scale_EKH[part])
        other._texts = [self._texts[row] for row in row_E.tolist()]
        return other
