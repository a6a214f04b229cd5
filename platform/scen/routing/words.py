"""What two questions have in common as text: rare words, numbers, spelling.

Keys encode what a question is about but hardly distinguish numbers, and typos move them far.
Suffixes: H buckets of words, L figures of a pair.
"""

import functools
import math
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from rapidfuzz.distance import OSA
from torch import Tensor

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
