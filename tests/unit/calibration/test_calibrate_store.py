"""A router is fitted on the edits of a store, as its bundles hold them."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from scen.calibration.fit_encoder import EncoderPlan
from scen.calibration.fit_router import RouterPlan
from scen.calibration.places import read_questions
from scen.calibration.quick import Recalibration, calibrate_store
from scen.calibration.router_set import Question
from scen.config import BaseConfig, Config, load_config
from scen.errors import ConfigError, InputError
from scen.fs import Storage
from scen.ledger.actions import Rollback, WaveCommit
from scen.ledger.tensors import save_bundle
from scen.model.base import Base
from scen.model.keys import SpanKeys
from scen.pipeline.job_spec import CalibrateSpec
from scen.pipeline.run_job import recalibrate_store
from scen.pipeline.runtime import no_steps
from scen.records import Edit, Rephrase
from scen.routing.keys import pack_texts, read_prompt_keys
from scen.routing.neurons import KeyNeurons
from scen.routing.router import conformal_threshold
from scen.snapshot.load import Place
from scen.snapshot.open import OpenStore, Places, create_store, open_store

NEUTRAL = [f"What is {a} {b}?" for a in ("a red", "an old") for b in ("river", "king", "song")]
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


def recalibrate(store: OpenStore, *edits: Edit) -> Recalibration:
    return calibrate_store(store, edits, PLAN, samples=())


@pytest.mark.slow
def test_a_store_is_calibrated_on_its_own_edits(make_store: MakeStore) -> None:
    store = make_store(24)
    done = recalibrate(store)
    router = done.router
    assert router.encoder.places == store.method.places
    assert router.threshold == conformal_threshold(router.negative_N, router.kind_N, 0.2)
    assert (done.profile["how"], done.profile["source"], done.profile["edits"]) == (
        "store", "store", 24,
    )  # fmt: skip
    for figures in (done.before, done.after):
        counts = {kind.kind: kind.count for kind in figures.kinds}
        assert (counts["prompts"], counts["unrelated"]) == (24, 10)
    prompts = [edit.prompt for edit in some_edits(24)]
    places = [Place(entry.bundle, entry.row) for entry in store.ledger.snapshot().entries]
    key_EKF = store.loader.tensors(places, ("key",))["key"]
    choice = KeyNeurons.build(router, key_EKF, prompts).choose(key_EKF, texts=prompts)
    assert (choice.index_BE[:, 0] == torch.arange(24)).float().mean() > 0.9


@pytest.mark.slow
def test_the_prompts_are_not_read_again(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(20, shift=1000.0)
    read: list[str] = []

    def note(base: Base, places: Places, questions: Sequence[Question], *rest: Any) -> SpanKeys:
        read.extend(question.text for question in questions)
        return read_questions(base, places, questions, *rest)

    monkeypatch.setattr("scen.calibration.calibrate.read_questions", note)
    router = recalibrate(store).router
    assert read
    assert not {edit.prompt for edit in some_edits(20)} & set(read)
    assert (router.encoder.mean_KF.mean(1) > 10).all()  # the keys of the bundles


@pytest.mark.slow
def test_other_edits_may_help(make_store: MakeStore) -> None:
    store = make_store(20)
    other = [replace(edit, id=f"o{i}") for i, edit in enumerate(some_edits(30)[20:])]
    done = recalibrate(store, *other)
    assert done.profile["edits"] == 20
    assert {kind.kind: kind.count for kind in done.after.kinds}["prompts"] == 20


@pytest.mark.slow
def test_the_figures_of_the_current_router_are_those_of_its_routes(make_store: MakeStore) -> None:
    """The plain router, over the prompts of the edits: each is nearest to itself."""
    figures = {kind.kind: kind for kind in recalibrate(make_store(24)).before.kinds}
    assert figures["prompts"].right is not None
    assert figures["prompts"].right > 0.9
    assert figures["same kind, edit absent"].wrong < 1


def test_what_cannot_be_calibrated_is_refused(
    make_store: MakeStore, make_config: Callable[..., Config], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"^--store: 3 active edits"):
        recalibrate(make_store(3))
    paper = create_store(Storage(str(tmp_path / "paper")), make_config("scen"), NEUTRAL)
    with pytest.raises(ConfigError, match=r"^--store: method scen has no router"):
        recalibrate(paper)


@pytest.mark.slow
def test_the_store_moves_and_goes_back(make_store: MakeStore, tmp_path: Path) -> None:
    store = make_store(24)
    aim: dict[str, Any] = {"store": store.storage.uri, "max_false_activation": 0.2}
    base = BaseConfig(dtype="float32", device="cpu")
    dry = CalibrateSpec(**aim, base=base, dry_run=True)
    assert recalibrate_store(dry, say, no_steps, PLAN, ()).version is None
    assert store.ledger.version() == 1
    spec = CalibrateSpec(**aim, base=base, force=True, why="it grew", who="ann")
    done = recalibrate_store(spec, say, no_steps, PLAN, ())
    assert done.version == store.ledger.version() == 2
    assert store.ledger.profile(store.ledger.snapshot())["how"] == "store"
    assert store.threshold == done.recalibration.router.threshold
    assert store.ledger.log()[-1].why == "it grew"
    again = open_store(store.storage, base)
    routed = again.edited_model(again.ledger.snapshot()).neurons
    assert isinstance(routed, KeyNeurons)
    assert routed.router.threshold == store.threshold
    store.ledger.settle(Rollback(1))
    assert store.threshold == 0.6
    assert store.ledger.profile(store.ledger.snapshot())["how"] == "none"


def say(_: str) -> None:
    """Nothing is shown."""
