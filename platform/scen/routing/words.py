"""What a question and an edit's prompt have in common as text: the word features of the gate.

Keys barely separate numbers and namesakes, and move far with typos; words do neither. Rare words
count more than common ones, and names most: "Maria Takada" is not "Maria Tolnai".

Suffix: H word buckets.
"""

import functools
import math
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from rapidfuzz import process
from rapidfuzz.distance import OSA
from torch import Tensor

NUM_FIGURES = 16
"""L, the number of word features."""

_MISSING_NAME = 13  # index of the feature: the rarest word of the edit's names that is missing
_BUCKETS = 1 << 18
_STEM = 6  # leading letters that identify a word: endings are ignored
_WORD = re.compile(r"[^\W_]+")
_NEAR = 0.6  # similarity below which two words count as unrelated
_PARTICLE = 3  # letters of a word within a name that is not capitalised, such as of, de, van
_BEGINS = 0.3  # rarity from which the first word of a text may be a name
_NAMED = 0.5  # rarity that a word of a name has at least
_COMMON = 0.4  # rarity below which a word is hardly part of a name
_LONGEST = 3.0  # length of a span relative to the edit at which the feature saturates


def fit_rarity(texts: Iterable[str], vocabulary: Sequence[str] = ()) -> Tensor:
    """rarity_H float16 in [0, 1]: inverse document frequencies of hashed words, 1 for words that
    are not known.

    `vocabulary` are words from the most to the least common, as a tokenizer has them; by Zipf's law
    their inverse document frequency grows with the logarithm of their rank. The lower of both
    counts, squared for contrast.
    """
    counts: Counter[int] = Counter()
    total = 0
    for text in texts:
        total += 1
        counts.update({_bucket(word, _BUCKETS) for word in words_of(text)})
    top = math.log(total + 1)
    rarity_H = torch.ones(_BUCKETS)
    for bucket, count in counts.items():
        rarity_H[bucket] = math.log((total + 1) / (count + 1)) / top
    last = math.log(len(vocabulary) + 1)
    for rank, word in enumerate(vocabulary, 1):
        bucket = _bucket(word, _BUCKETS)
        rarity_H[bucket] = min(float(rarity_H[bucket]), math.log(rank) / last)
    return rarity_H.square().half()


class Rarity:
    """The rarity of words in [0, 1], looked up in rarity_H."""

    def __init__(self, rarity_H: Tensor) -> None:
        self._buckets: list[float] = rarity_H.tolist()

    def __getitem__(self, word: str) -> float:
        return self._buckets[_bucket(word, len(self._buckets))]


@dataclass(frozen=True, slots=True)
class _Text:
    """A text as it is compared: its distinct words in order of first occurrence with their rarity,
    those that belong to names, and letter trigrams."""

    words: tuple[str, ...]
    rarity: tuple[float, ...]
    is_named: tuple[bool, ...]
    trigrams: frozenset[str]


def compare_words(span: str, edit: str, rarity: Rarity) -> list[float]:
    """The L word features of a span and an edit's prompt, all in [0, 1].

    Shares, weighted by rarity, of the edit's words that occur in the span and vice versa; the same
    for letter trigrams, unweighted; shares of either's numbers that the other lacks; the rarest
    word of either that the other lacks; whether both start with the same word; the relative length
    of the span; the rarest word beside a shared one that the other lacks, of either and of both
    (see `_apart`); and what the span lacks of the names in the edit (see `_missing_names`).
    """
    spoken, known = _read(span, rarity), _read(edit, rarity)
    if not spoken.words or not known.words:
        return [0.0] * NUM_FIGURES
    span_matches = _matches(spoken.words, known.words)
    edit_matches = _matches(known.words, spoken.words)
    shared = len(spoken.trigrams & known.trigrams)
    span_lacks = [r * (1 - m) for r, m in zip(spoken.rarity, span_matches, strict=True)]
    edit_lacks = [r * (1 - m) for r, m in zip(known.rarity, edit_matches, strict=True)]
    return [
        _share(known.rarity, edit_matches),
        _share(spoken.rarity, span_matches),
        shared / len(known.trigrams),
        shared / len(spoken.trigrams),
        _missing_numbers(known.words, spoken.words),
        _missing_numbers(spoken.words, known.words),
        max(edit_lacks),
        max(span_lacks),
        float(spoken.words[0] == known.words[0]),
        min(len(spoken.words) / len(known.words), _LONGEST) / _LONGEST,
        *_apart(_beside(known, edit_lacks), _beside(spoken, span_lacks)),
        *_missing_names(known, edit_matches),
    ]


@functools.lru_cache(32768)
def _read(text: str, rarity: Rarity) -> _Text:
    words, names = words_of(text), _names_in(text)
    rarities = tuple(rarity[word] for word in words)
    return _Text(
        words,
        rarities,
        tuple(
            word in names and (i > 0 or r > _BEGINS)  # a first word such as What is no name
            for i, (word, r) in enumerate(zip(words, rarities, strict=True))
        ),
        _text_trigrams(text),
    )


def words_of(text: str) -> tuple[str, ...]:
    """The distinct words of a text, case-folded, in order of first occurrence."""
    return tuple(dict.fromkeys(_WORD.findall(text.casefold())))


@functools.lru_cache(65536)
def _bucket(word: str, buckets: int) -> int:
    stem = word if word.isdigit() else word[:_STEM]
    return zlib.crc32(stem.encode()) % buckets


@functools.lru_cache(65536)
def _trigrams(word: str) -> frozenset[str]:
    marked = f"^{word}$"
    return frozenset(marked[i : i + 3] for i in range(len(marked) - 2))


def _text_trigrams(text: str) -> frozenset[str]:
    return frozenset().union(*map(_trigrams, words_of(text)))


@functools.lru_cache(65536)
def _spelt(words: tuple[str, ...]) -> tuple[list[str], frozenset[str]]:
    """The words that are not numbers, and the stems of the long ones."""
    spelt = [word for word in words if not word.isdigit()]
    return spelt, frozenset(word[:_STEM] for word in spelt if len(word) >= _STEM)


def _matches(words: Sequence[str], others: tuple[str, ...]) -> list[float]:
    """The similarity of each word to the most similar of the others: 1 if only the ending differs,
    less for a typo (optimal string alignment distance), else 0. Other numbers never match."""
    known = set(others)
    spelt, stems = _spelt(others)
    matched = []
    for word in words:
        if word in known or word[:_STEM] in stems:
            matched.append(1.0)
        elif word.isdigit():
            matched.append(0.0)
        else:
            nearest = process.extractOne(
                word, spelt, scorer=OSA.normalized_similarity, processor=None, score_cutoff=_NEAR
            )
            matched.append(nearest[1] if nearest else 0.0)
    return matched


def _share(rarity: Sequence[float], matched: Sequence[float]) -> float:
    total = sum(rarity)
    return sum(r * m for r, m in zip(rarity, matched, strict=True)) / total if total else 0.0


def _beside(text: _Text, lacks: Sequence[float]) -> dict[str, float]:
    """For each word, unless it is very common, the rarity of the rarer of its two neighbours, as
    far as the other text lacks it."""
    padded = [0.0, *lacks, 0.0]
    sides = map(max, padded, padded[2:])
    return {
        word: side if r >= _COMMON else side * r / _COMMON
        for word, r, side in zip(text.words, text.rarity, sides, strict=True)
    }


def _apart(edit: dict[str, float], span: dict[str, float]) -> tuple[float, float, float]:
    """The largest value of a shared word in either text, and in both at once: namesakes such as
    "Maria Takada" and "Maria Tolnai" have different rare words beside a shared one."""
    shared = edit.keys() & span.keys()
    return (
        max((edit[word] for word in shared), default=0.0),
        max((span[word] for word in shared), default=0.0),
        max((min(edit[word], span[word]) for word in shared), default=0.0),
    )


def _names_in(text: str) -> frozenset[str]:
    """The words of the names in a text, case-folded: those with a capital or a digit, and short
    words between two of them. The first word is one of them; none in a text without lower case."""
    if not any(letter.islower() for letter in text):
        return frozenset()
    words = _WORD.findall(text)
    named = [not word.islower() for word in words]
    for i in range(1, len(words) - 1):
        named[i] |= named[i - 1] and named[i + 1] and len(words[i]) <= _PARTICLE
    return frozenset(w.casefold() for w, is_named in zip(words, named, strict=True) if is_named)


def _missing_names(edit: _Text, matched: Sequence[float]) -> tuple[float, float, float]:
    """The rarest word of the edit's names that is missing; the share of these words that is; and
    whether there are any."""
    missing = [
        (max(r, _NAMED) * (1 - m), 1 - m)
        for r, m, is_named in zip(edit.rarity, matched, edit.is_named, strict=True)
        if is_named
    ]
    if not missing:
        return 0.0, 0.0, 0.0
    return max(rare for rare, _ in missing), sum(m for _, m in missing) / len(missing), 1.0


def names_in_part(words_MEL: Tensor) -> Tensor:
    """is_part_ME (bool): whether a span lacks a whole word of an edit's names, not just a letter of
    it. False for word features without names."""
    if words_MEL.shape[-1] <= _MISSING_NAME:
        return torch.zeros(words_MEL.shape[:-1], dtype=torch.bool)
    return words_MEL[..., _MISSING_NAME] >= _NAMED


def _missing_numbers(words: Sequence[str], others: Sequence[str]) -> float:
    numbers = [word for word in words if word.isdigit()]
    return sum(word not in others for word in numbers) / len(numbers) if numbers else 0.0


def trigram_similarity(text: str, other: str) -> float:
    """Dice coefficient of the letter trigrams of two texts, in [0, 1]."""
    first, second = _text_trigrams(text), _text_trigrams(other)
    return 2 * len(first & second) / max(len(first) + len(second), 1)
