"""A profile survives its two files; what is damaged or of another base is refused."""

import json
from pathlib import Path

import pytest
import torch

from scen.config import load_config
from scen.errors import ConfigError
from scen.model.base import Base, load_base
from scen.snapshot.load import make_router
from scen.snapshot.method import (
    Profile,
    find_profile,
    load_profile,
    save_profile,
    shipped_profiles,
)


@pytest.fixture
def path(profile: Profile, tmp_path: Path) -> Path:
    save_profile(profile, tmp_path / "deep/er/tiny.json")
    return tmp_path / "deep/er/tiny.json"


def test_a_profile_survives(profile: Profile, path: Path) -> None:
    back = load_profile(path)
    assert (back.expert, back.calibration) == (profile.expert, profile.calibration)
    assert back.base["fingerprint"] == profile.base["fingerprint"]
    assert back.router.threshold == profile.router.threshold
    mine, theirs = profile.router.tensors(), back.router.tensors()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.parametrize("damage", ["tensors", "no tensors", "json", "format", "field"])
def test_a_damaged_profile_is_refused(path: Path, damage: str) -> None:
    tensors = path.with_suffix(".safetensors")
    facts = json.loads(path.read_text())
    if damage == "tensors":
        tensors.write_bytes(tensors.read_bytes()[:-1] + b"x")
    elif damage == "no tensors":
        tensors.unlink()
    elif damage == "json":
        path.write_text(path.read_text()[:-9])
    elif damage == "format":
        path.write_text(json.dumps(facts | {"format": 99}))
    else:
        path.write_text(json.dumps({n: v for n, v in facts.items() if n != "expert"}))
    with pytest.raises(ConfigError, match=r"^router\.profile: .*tiny\.json"):
        load_profile(path)


def test_a_file_is_found_for_its_base_only(path: Path, tiny: Base, tiny_folder: Path) -> None:
    assert find_profile(str(path), tiny) is not None
    assert find_profile("none", tiny) is None
    assert find_profile("auto", tiny) is None  # none ships for it
    other = load_base(str(tiny_folder), template="raw", dtype="float32", device="cpu")
    found = find_profile(str(path), other)
    assert found is not None
    assert (found.is_of(tiny), found.is_of(other)) == (True, False)
    config = load_config(fixed={"router": {"profile": str(path)}})
    with pytest.raises(ConfigError, match=r"was made for .* \(llama2-inst\), not for .* \(raw\)"):
        make_router(config, other, found, (), lambda: torch.zeros(0))
    with pytest.raises(ConfigError, match=r"cannot read nowhere\.json"):
        find_profile("nowhere.json", tiny)


def test_what_ships_is_whole() -> None:
    for path in shipped_profiles():
        profile = load_profile(path)
        assert profile.router.sample_size > 0
        assert profile.router.bound is not None
