"""The words of edits as rows of a tensor, so that a bundle holds them beside the keys.

Suffixes: E edits, B bytes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

WIDTH = 256
"""Bytes of UTF-8 that are kept; what comes after them is not compared."""


def pack_texts(texts: Sequence[str]) -> Tensor:
    """text_EB uint8: each text as UTF-8, cut off at B bytes, filled up with zeros."""
    rows = torch.zeros(len(texts), WIDTH, dtype=torch.uint8)
    for row, text in zip(rows, texts, strict=True):
        data = text.encode()[:WIDTH]
        row[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else 0
    return rows


def unpack_texts(text_EB: Tensor) -> list[str]:
    """The texts that `pack_texts` packed; a letter that was cut in two is left out."""
    return [
        bytes(row.tolist()).rstrip(b"\0").decode(errors="ignore")
        for row in text_EB.to(torch.uint8).unbind()
    ]
