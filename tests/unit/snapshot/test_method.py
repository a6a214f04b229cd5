"""Settings become numbers that fit the base, or an error that names the field."""

import json
from typing import Any

import pytest

from scen.config import Config, load_config
from scen.errors import ConfigError
from scen.model.keys import KeyPlace
from scen.snapshot.method import Profile, StoreMethod, resolve_method, stated_method


def config(method: str = "scen-lr", **sections: Any) -> Config:
    return load_config(fixed={"method": method, **sections})


@pytest.mark.parametrize(
    ("layers", "layer", "mean", "last"),
    [
        (6, 4, 0, 4),
        (22, 14, 2, 17),
        (30, 20, 3, 24),
        (32, 21, 3, 25),
        (80, 53, 8, 64),
    ],
)
def test_defaults_follow_the_depth_of_the_base(
    layers: int, layer: int, mean: int, last: int
) -> None:
    method = resolve_method(config(), layers)
    assert method.layer == layer
    assert method.places == (KeyPlace(mean, "mean"), KeyPlace(last, "last"))
    assert resolve_method(config("scen"), layers).layer == layer


def test_theta_and_places_belong_to_one_method_each() -> None:
    lr = resolve_method(config(router={"theta": 0.8}, expert={"rank": 8}), 30)
    assert (lr.method, lr.theta, lr.rank, len(lr.places)) == ("scen-lr", None, 8, 2)
    paper = resolve_method(config("scen", router={"theta": 0.8}, expert={"rank": 8}), 30)
    assert (paper.method, paper.theta, paper.rank, paper.places) == ("scen", 0.8, 0, ())


def test_a_profile_fills_what_is_not_set(profile: Profile) -> None:
    method = resolve_method(config(expert={"lr": 0.5}), 6, profile)
    assert (method.layer, method.rank, method.places) == (3, 2, profile.router.encoder.places)
    assert method.training == {"steps": 7, "lr": 0.5, "stop_loss": 0.003}
    paper = resolve_method(config("scen", expert={"layer": 1}), 6, profile)
    assert (paper.layer, paper.rank, paper.training["steps"]) == (1, 0, 10)


def test_a_later_run_has_the_store_s_training_where_it_says_nothing(profile: Profile) -> None:
    method = resolve_method(config(expert={"lr": 0.5}), 6, profile)
    later = method.fill(config(expert={"stop_loss": 0.1}).expert)
    assert (later.steps, later.lr, later.stop_loss) == (7, 0.5, 0.1)
    assert method.fill(config(expert={"lr": 0.2}).expert).lr == 0.2


def test_only_what_is_said_is_compared_with_a_store() -> None:
    assert stated_method(config()) == {"method": "scen-lr"}
    said = stated_method(config(expert={"rank": 4, "layer": 2}, router={"theta": 0.8}))
    assert said == {"method": "scen-lr", "layer": 2, "rank": 4}
    places = [{"layer": 5, "kind": "last"}]
    assert stated_method(config(router={"places": places}))["places"] == places
    said = stated_method(config("scen", expert={"rank": 4}, router={"theta": 0.8}))
    assert said == {"method": "scen", "theta": 0.8}


def test_what_is_set_is_taken() -> None:
    places = [{"layer": 5, "kind": "last"}, {"layer": 0, "kind": "mean"}]
    method = resolve_method(config(expert={"layer": 0}, router={"places": places}), 6)
    assert method.layer == 0
    assert method.places == (KeyPlace(5, "last"), KeyPlace(0, "mean"))


@pytest.mark.parametrize("method", ["scen-lr", "scen"])
@pytest.mark.parametrize("layer", [6, 7, 99])
def test_an_expert_layer_that_is_not_there(method: str, layer: int) -> None:
    with pytest.raises(
        ConfigError, match=rf"^expert\.layer: {layer} is too large; the base has 6 layers$"
    ):
        resolve_method(config(method, expert={"layer": layer}), 6)


def test_the_last_layer_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^expert\.layer: the last layer cannot be edited"):
        resolve_method(config(expert={"layer": 5}), 6)
    assert resolve_method(config(expert={"layer": 4}), 6).layer == 4


def test_a_key_place_that_is_not_there() -> None:
    places = [{"layer": 5, "kind": "mean"}, {"layer": 6, "kind": "last"}]
    wrong: dict[str, Any] = {"router": {"places": places}}
    with pytest.raises(ConfigError, match=r"^router\.places: 6 is too large; the base has 6"):
        resolve_method(config(**wrong), 6)
    assert resolve_method(config("scen", **wrong), 6).places == ()  # which reads no keys


def test_a_method_survives_the_manifest() -> None:
    for name in ("scen-lr", "scen"):
        method = resolve_method(config(name), 30)
        stored = json.loads(json.dumps(method.to_dict()))
        assert StoreMethod.from_dict(stored) == method
