"""A profile is taken over for other weights of its base, and for nothing else, after a check."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from scen.calibration.transfer import (
    TransferCheck,
    adopt_profile,
    base_facts,
    check_transfer,
    differs_by_weights,
    holds,
)
from scen.config import load_config
from scen.errors import ConfigError
from scen.fs import Storage
from scen.ledger.manifest import read_manifest
from scen.model.base import Base, load_base
from scen.model.keys import KeyPlace
from scen.model.weights import EMBEDDED_NAME
from scen.pipeline.runtime import Runtime, calibrate_first, make_store
from scen.routing.keys import read_prompt_keys
from scen.routing.router import plain_router
from scen.snapshot.method import Profile, load_profile, save_profile, shipped_profiles


def with_weights(folder: Path, to: Path, noise: float) -> Path:
    """A copy of a base whose matrices differ by some noise, relative to their size."""
    shutil.copytree(folder, to)
    (to / "converted.json").unlink(missing_ok=True)
    weights = load_file(to / "model.safetensors")
    torch.manual_seed(0)
    for name, weight in weights.items():
        if weight.ndim > 1:
            weights[name] = weight + noise * weight.std() * torch.randn_like(weight)
    save_file(weights, to / "model.safetensors", {"format": "pt"})
    return to


@pytest.fixture
def other(tiny_folder: Path, tmp_path: Path) -> Base:
    """The tiny base with slightly different weights."""
    folder = with_weights(tiny_folder, tmp_path / "other", 0.001)
    return load_base(str(folder), template="llama2-inst", dtype="float32", device="cpu")


@pytest.fixture
def of_tiny(tiny: Base) -> Profile:
    """A profile of the tiny base without figures or bound, which no check contradicts."""
    places = (KeyPlace(2, "last"),)
    neutral = [f"What is {a} {b}?" for a in ("a red", "an old") for b in ("river", "king")]
    router = plain_router(places, read_prompt_keys(tiny, places, neutral), 0.1, 0.5)
    expert = {"layer": 3, "rank": 2, "lr": 0.05, "steps": 7}
    return Profile(base_facts(tiny), expert, router, {})


@pytest.mark.parametrize(
    ("change", "is_candidate"),
    [
        ({}, True),
        ({"dtype": "bfloat16", "name": "another", "parameters": 1}, True),
        ({"layers": 7}, False),
        ({"intermediate_size": 1}, False),
        ({"template": "raw"}, False),
        ({"architecture": "qwen2"}, False),
        ({"encoding": "0"}, False),
    ],
)
def test_only_the_weights_may_differ(
    other: Base, of_tiny: Profile, change: Mapping[str, Any], is_candidate: bool
) -> None:
    profile = replace(of_tiny, base={**of_tiny.base, **change})
    assert differs_by_weights(base_facts(other), profile) is is_candidate


def test_a_profile_of_an_older_release_has_fewer_facts(other: Base, of_tiny: Profile) -> None:
    facts = {n: v for n, v in of_tiny.base.items() if n not in ("architecture", "encoding")}
    assert differs_by_weights(base_facts(other), replace(of_tiny, base=facts))


def test_the_base_s_own_profile_is_not_taken_over(tiny: Base, of_tiny: Profile) -> None:
    assert not differs_by_weights(base_facts(tiny), of_tiny)


def figures(**shares: float) -> dict[str, Any]:
    kinds = [
        {"kind": "rephrases, orig", "count": 100, "right": shares["right"], "wrong": 0.0},
        {"kind": "near misses, made", "count": 100, "right": None, "wrong": shares["wrong"]},
        {"kind": "same kind, edit absent", "count": 100, "right": None, "wrong": shares["wrong"]},
    ]
    return {"figures": {"kinds": kinds}}


@pytest.mark.parametrize(
    ("found", "is_good"),
    [
        (TransferCheck(192, 0.90, 0.05, 0.05, 0.05), True),
        (TransferCheck(192, 0.82, 0.10, 0.05, 0.05), True),  # within chance
        (TransferCheck(192, 0.70, 0.05, 0.05, 0.05), False),
        (TransferCheck(192, 0.90, 0.25, 0.05, 0.05), False),
        (TransferCheck(192, 0.90, 0.05, 0.25, 0.05), False),
        (TransferCheck(192, 0.90, 0.05, 0.05, 0.25), False),  # judged by the bound
    ],
)
def test_figures_hold_within_chance(of_tiny: Profile, found: TransferCheck, is_good: bool) -> None:
    router = replace(of_tiny.router, bound=0.05)
    profile = replace(of_tiny, router=router, calibration=figures(right=0.9, wrong=0.05))
    assert holds(found, profile) is is_good


def test_what_was_taken_over_says_so(tiny: Base, other: Base, of_tiny: Profile) -> None:
    stranger = replace(of_tiny, base={**of_tiny.base, "layers": 7})
    adopted = adopt_profile(other, [stranger, of_tiny])
    assert adopted is not None
    assert adopted.is_of(other)
    taken = adopted.describe()["taken_from"]
    assert (taken["fingerprint"], taken["check"]["samples"]) == (tiny.fingerprint, 192)
    assert adopt_profile(other, [stranger]) is None
    strict = replace(of_tiny, calibration=figures(right=1.0, wrong=0.0))
    assert adopt_profile(other, [strict]) is None


def test_a_profile_in_the_cache_is_taken_over_once(
    other: Base, of_tiny: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SCEN_PROFILE", raising=False)
    monkeypatch.setattr("scen.pipeline.runtime.knows_wordings", lambda _: True)
    save_profile(of_tiny, tmp_path / f"cache/profiles/{of_tiny.base['fingerprint']}/profile.json")
    said: list[str] = []
    first = calibrate_first(other, said.append)
    assert first is not None
    assert "taken_from" in first.describe()
    assert len(said) == 1
    assert "checked on 192 samples" in said[0]
    again = calibrate_first(other, said.append)
    assert again is not None
    assert again.calibration == first.calibration
    assert len(said) == 1


def test_a_file_of_other_weights_is_checked_and_recorded(
    other: Base, of_tiny: Profile, tmp_path: Path
) -> None:
    save_profile(of_tiny, tmp_path / "tiny.json")
    strict = replace(of_tiny, calibration=figures(right=1.0, wrong=0.0))
    save_profile(strict, tmp_path / "strict.json")

    def create(name: str, file: str) -> Storage:
        storage = Storage(str(tmp_path / name))
        config = load_config(fixed={"router": {"profile": str(tmp_path / file)}})
        make_store(storage, config, Runtime(), other)
        return storage

    made = read_manifest(create("store", "tiny.json")).profile
    assert made["taken_from"]["fingerprint"] == of_tiny.base["fingerprint"]
    create("store", "tiny.json")  # the same again
    with pytest.raises(ConfigError, match="figures do not hold"):
        create("strict", "strict.json")


@pytest.mark.slow
def test_the_packaged_profile_suits_its_base_with_a_little_noise_only(tmp_path: Path) -> None:
    base = load_base(EMBEDDED_NAME, dtype="auto", device="cpu")
    [profile] = map(load_profile, shipped_profiles())
    assert profile.base["encoding"] == base_facts(base)["encoding"]
    assert holds(check_transfer(base, profile), profile)
    for noise, is_taken in ((0.01, True), (0.5, False)):
        folder = with_weights(base.folder, tmp_path / str(noise), noise)
        moved = load_base(str(folder), dtype="auto", device="cpu")
        assert (adopt_profile(moved, [profile]) is not None) is is_taken
