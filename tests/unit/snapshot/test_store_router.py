"""Which router a store gets, and what a store that has one is held to."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from scen.config import Config
from scen.errors import ConfigError
from scen.fs import Storage
from scen.model.base import Base
from scen.snapshot.load import choose_profile
from scen.snapshot.method import Profile, save_profile
from scen.snapshot.open import create_store, open_store

MakeConfig = Callable[..., Config]


@pytest.fixture
def file(profile: Profile, tmp_path: Path) -> str:
    """The profile as a file."""
    save_profile(profile, tmp_path / "tiny.json")
    return str(tmp_path / "tiny.json")


def test_a_profile_gives_router_and_expert_settings(
    storage: Storage, make_config: MakeConfig, profile: Profile, file: str
) -> None:
    store = create_store(storage, make_config(router={"profile": file}), [])
    assert store.threshold == profile.router.threshold
    assert (store.method.layer, store.method.rank) == (3, 2)
    assert store.method.places == profile.router.encoder.places
    again = create_store(storage, make_config(), [])
    assert again.method == store.method
    assert open_store(storage, make_config().base).threshold == store.threshold


def test_a_bound_sets_the_threshold(
    storage: Storage, make_config: MakeConfig, file: str, profile: Profile
) -> None:
    config = make_config(router={"profile": file, "max_false_activation": 0.05})
    store = create_store(storage, config, [])
    assert store.threshold == profile.router.bounded(0.05).threshold > profile.router.threshold


def test_a_threshold_by_hand_promises_nothing(
    storage: Storage, make_config: MakeConfig, file: str
) -> None:
    store = create_store(storage, make_config(router={"profile": file, "threshold": 0.123}), [])
    assert store.loader.router is not None
    assert (store.threshold, store.loader.router.bound) == (0.123, None)


def test_without_a_profile_there_is_no_bound(
    storage: Storage, make_config: MakeConfig, neutral: list[str]
) -> None:
    config = make_config(router={"max_false_activation": 0.05})
    with pytest.raises(ConfigError, match=r"^router\.max_false_activation: .* has no profile"):
        create_store(storage, config, neutral)
    assert storage.names("") == []


@pytest.mark.parametrize(
    "settings",
    [{"threshold": 0.9}, {"max_false_activation": 0.2}, {"profile": "{other}"}],
)
def test_a_store_keeps_its_router(
    storage: Storage,
    make_config: MakeConfig,
    file: str,
    profile: Profile,
    tmp_path: Path,
    settings: dict[str, object],
) -> None:
    other = tmp_path / "other.json"
    save_profile(replace(profile, router=profile.router.bounded(0.3)), other)
    create_store(storage, make_config(router={"profile": file}), [])
    if "profile" in settings:
        settings = {"profile": str(other)}
    with pytest.raises(ConfigError, match=r"^router: this store has its own, keys last@2"):
        create_store(storage, make_config(router=settings), [])
    same = {"profile": file, "max_false_activation": 0.1}
    assert create_store(storage, make_config(router=same), []).threshold > 0


def test_places_by_hand_go_without_a_profile(
    tiny: Base, make_config: MakeConfig, file: str
) -> None:
    places = [{"layer": 1, "kind": "mean"}]
    config = make_config(router={"places": places})
    assert choose_profile(config, tiny) is None
    with pytest.raises(ConfigError, match=r"set profile or places, not both"):
        make_config(router={"places": places, "profile": file})


def test_the_paper_s_method_has_no_router(
    storage: Storage, make_config: MakeConfig, file: str
) -> None:
    store = create_store(storage, make_config("scen", router={"profile": file}), [])
    assert store.loader.router is None
    assert store.ledger.manifest.artifacts == {}


def test_only_one_way_to_set_the_threshold(make_config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match="threshold or max_false_activation, not both"):
        make_config(router={"threshold": 0.5, "max_false_activation": 0.1})
