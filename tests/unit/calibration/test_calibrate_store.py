"""A router is fitted on the edits of a store, as its bundles hold them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from scen.calibration.calibrate import calibrate_store
from scen.calibration.fit_encoder import EncoderPlan
from scen.calibration.fit_router import RouterPlan
from scen.config import Config, load_config
from scen.errors import ConfigError, InputError
from scen.fs import Storage
from scen.ledger.ledger import WaveCommit
from scen.ledger.tensors import save_bundle
from scen.records import Edit, Rephrase
from scen.routing.keys import pack_texts, read_prompt_keys
from scen.routing.neurons import KeyNeurons
from scen.routing.router import conformal_threshold
from scen.snapshot.load import Place
from scen.snapshot.method import load_profile, save_profile
from scen.snapshot.open import OpenStore, create_store

NEUTRAL = [f"What is {a} {b}?" for a in ("a red", "an old") for b in ("river", "king", "song")]
UNRELATED = [f"How many {word} are {i}?" for i, word in enumerate(["rivers", "kings"] * 12)]
PLAN = RouterPlan(EncoderPlan(8, 8, 4, 4), bound=0.2, gate_steps=20, num_gates=1, hidden=8)
PLACES = [{"layer": 1, "kind": "mean"}, {"layer": 4, "kind": "last"}]

MakeStore = Callable[..., OpenStore]


def some_edits(count: int) -> list[Edit]:
    """Edits of two relations about different subjects."""
    subjects = [f"{a}{b}" for a in ("Am", "Bir", "Ced", "Dun") for b in ("ber", "cho", "dar", "ew")]
    asked = [("Who founded {}?", "{} was founded by whom?"), ("Where is {}?", "{} lies where?")]
    return [
        Edit(
            id=f"e{i}",
            prompt=asked[i % 2][0].format(name),
            target=f"t{i}",
            subject=name,
            rephrases=(Rephrase(asked[i % 2][1].format(name), "orig"),),
            near_misses=(f"What colour is {name}?",),
            metadata={"relation": ("founder", "place")[i % 2]},
        )
        for i, name in enumerate(f"{subjects[i % 16]} {i // 16}" for i in range(count))
    ]


@pytest.fixture
def make_config(tiny_folder: Path) -> Callable[..., Config]:
    def make(method: str = "scen-lr", **router: object) -> Config:
        tiny = {"name": str(tiny_folder), "template": "llama2-inst", "dtype": "float32"}
        base = {**tiny, "device": "cpu"}
        return load_config(fixed={"method": method, "base": base, "router": router})

    return make


@pytest.fixture
def make_store(make_config: Callable[..., Config], tmp_path: Path) -> MakeStore:
    """make(count, shift): a store of so many edits, `shift` added to their keys."""

    def make(count: int, shift: float = 0.0) -> OpenStore:
        storage = Storage(str(tmp_path / "store"))
        store = create_store(storage, make_config(places=PLACES), NEUTRAL)
        edits = some_edits(count)
        prompts = [edit.prompt for edit in edits]
        key_EKF = read_prompt_keys(store.base, store.method.places, prompts) + shift
        tensors = {
            "down": torch.zeros(count, store.method.rank, 64),
            "up": torch.zeros(count, 32, store.method.rank),
            "key": key_EKF.half(),
            "text": pack_texts(prompts),
        }
        bundle = save_bundle(storage, tensors)
        store.ledger.commit(WaveCommit("w0", "s", 0, bundle, edits), 0)
        return store

    return make


def stored_keys(store: OpenStore) -> Tensor:
    places = [Place(entry.bundle, entry.row) for entry in store.ledger.snapshot().entries]
    return store.loader.tensors(places, ("key",))["key"]


@pytest.mark.slow
def test_a_store_is_calibrated_on_its_own_edits(
    make_store: MakeStore, make_config: Callable[..., Config], tmp_path: Path
) -> None:
    store = make_store(24)
    calibration = calibrate_store(store, UNRELATED, {"data": "its own"}, PLAN)
    profile, router = calibration.profile, calibration.profile.router
    assert router.encoder.places == store.method.places
    assert router.threshold == conformal_threshold(router.negative_N, router.kind_N, 0.2)
    assert profile.base["fingerprint"] == store.base.fingerprint
    assert (profile.expert["layer"], profile.expert["rank"]) == (4, store.method.rank)
    counts = {figures.kind: figures.count for figures in calibration.figures.kinds}
    assert (counts["prompts"], counts["rephrases, orig"], counts["unrelated"]) == (24, 24, 12)
    prompts = [edit.prompt for edit in some_edits(24)]
    neurons = KeyNeurons.build(router, stored_keys(store), prompts)
    choice = neurons.choose(stored_keys(store), texts=prompts)
    assert (choice.index_BE[:, 0] == torch.arange(24)).float().mean() > 0.9

    save_profile(profile, tmp_path / "own.json")
    loaded = load_profile(tmp_path / "own.json")
    config = make_config(profile=str(tmp_path / "own.json"))
    other = create_store(Storage(str(tmp_path / "other")), config, NEUTRAL).loader.router
    assert other is not None
    for name, tensor in loaded.router.tensors().items():
        assert torch.equal(other.tensors()[name], tensor), name


@pytest.mark.slow
def test_the_keys_are_those_of_the_bundles(make_store: MakeStore) -> None:
    store = make_store(20, shift=1000.0)
    router = calibrate_store(store, UNRELATED, {}, PLAN).profile.router
    assert (router.encoder.mean_KF.mean(1) > 10).all()


def test_what_cannot_be_calibrated_is_refused(
    make_store: MakeStore, make_config: Callable[..., Config], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"^--edits: 3 usable edits"):
        calibrate_store(make_store(3), UNRELATED, {})
    paper = create_store(Storage(str(tmp_path / "paper")), make_config("scen"), NEUTRAL)
    with pytest.raises(ConfigError, match=r"^--store: method scen has no router"):
        calibrate_store(paper, UNRELATED, {})
