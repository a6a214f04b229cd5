"""The cut depends on the edits alone, and a wave's key on all that decides its experts."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from scen.pipeline.plan import Wave, cut_waves
from scen.records import Edit, Rephrase, edit_to_dict

SETTINGS: dict[str, Any] = {"base": "f" * 64, "expert": {"steps": 20, "lr": 0.1}}


def cut(
    edits: list[Edit], lengths: list[int], size: int = 4, settings: Mapping[str, Any] = SETTINGS
) -> list[Wave]:
    """The waves of edits that arrive in batches of these lengths."""
    rest = iter(edits)
    batches = [[next(rest) for _ in range(length)] for length in lengths]
    return list(cut_waves("news", batches, size, settings))


@pytest.mark.parametrize(
    ("size", "sizes"), [(1, [1] * 6), (2, [2, 2, 2]), (4, [4, 2]), (6, [6]), (7, [6])]
)
def test_only_the_last_wave_may_be_smaller(edits: list[Edit], size: int, sizes: list[int]) -> None:
    waves = cut(edits, [6], size)
    assert [len(wave.edits) for wave in waves] == sizes
    assert [wave.index for wave in waves] == list(range(len(sizes)))
    assert [edit for wave in waves for edit in wave.edits] == edits


@pytest.mark.parametrize("lengths", [[6], [1] * 6, [3, 3], [0, 5, 0, 1, 0], [2, 4]])
def test_the_cut_does_not_depend_on_how_edits_arrive(edits: list[Edit], lengths: list[int]) -> None:
    assert cut(edits, lengths) == cut(edits, [4, 2])


def test_a_wave_ends_before_it_is_too_long(edits: list[Edit]) -> None:
    each = [len(json.dumps(edit_to_dict(edit), ensure_ascii=False).encode()) for edit in edits]

    def lengths(most: int) -> list[int]:
        waves = cut_waves("news", [edits], 4, SETTINGS, most)
        return [len(wave.edits) for wave in waves]

    assert lengths(sum(each[:2])) != lengths(sum(each[:2]) - 1)
    assert lengths(sum(each[:2]))[0] == 2
    assert lengths(sum(each[:2]) - 1)[0] == 1
    assert lengths(1) == [1] * 6
    assert lengths(sum(each)) == [4, 2]


def test_without_edits_there_is_no_wave() -> None:
    assert cut([], []) == cut([], [0, 0]) == []


def test_waves_come_as_soon_as_they_are_full(edits: list[Edit]) -> None:
    taken: list[int] = []

    def batches() -> Any:
        for number, edit in enumerate(edits):
            taken.append(number)
            yield [edit]

    waves = cut_waves("news", batches(), 2, SETTINGS)
    next(waves)
    assert taken == [0, 1]


def test_equal_content_has_an_equal_key(edits: list[Edit]) -> None:
    copied = [replace(edit) for edit in edits]
    swapped = {"expert": {"lr": 0.1, "steps": 20}, "base": "f" * 64}
    keys = [wave.key for wave in cut(edits, [6])]
    assert keys == [wave.key for wave in cut(copied, [1] * 6, settings=swapped)]
    assert [key[:11] for key in keys] == ["news-00000-", "news-00001-"]
    assert len(set(keys)) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"id": "other"},
        {"target": "other"},
        {"rephrases": (Rephrase("Whose work is it?"),)},
        {"near_misses": ()},
        {"author": "ann"},
        {"metadata": {"relation": "founder"}},
    ],
)
def test_any_change_of_an_edit_is_another_wave(edits: list[Edit], change: dict[str, Any]) -> None:
    changed = [replace(edits[0], **change), *edits[1:]]
    before, after = cut(edits, [6]), cut(changed, [6])
    assert before[0].key != after[0].key
    assert before[1].key == after[1].key


def test_order_settings_place_and_stream_are_part_of_the_key(edits: list[Edit]) -> None:
    wave = Wave("news", 0, tuple(edits), SETTINGS)
    slower = {**SETTINGS, "expert": {"steps": 20, "lr": 0.05}}
    others = [
        replace(wave, edits=tuple(reversed(edits))),
        replace(wave, settings=slower),
        replace(wave, settings={**SETTINGS, "base": "e" * 64}),
        replace(wave, index=1),
        replace(wave, stream="olds"),
    ]
    assert len({wave.key, *(other.key for other in others)}) == 6
    assert replace(wave, settings=slower).digest == wave.digest  # the edits are the same
