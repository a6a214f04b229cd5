"""Rows of bundles become experts in the order that was asked for, whole or not at all."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from scen.errors import ConfigError, IntegrityError, NotFoundError
from scen.fs import Storage
from scen.ledger.tensors import save_bundle
from scen.model.base import Base
from scen.model.batch import pad_prompts
from scen.model.decode import decode
from scen.model.expert import FullBank, LowRankBank
from scen.model.keys import KeyPlace
from scen.model.route import SigmoidNeurons
from scen.records import EncodedEdit
from scen.routing.key_bank import Codes
from scen.routing.keys import pack_texts
from scen.routing.neurons import KeyNeurons
from scen.routing.router import Router, plain_router
from scen.snapshot.load import BundleRows, Place, SnapshotLoader, stored_form
from scen.snapshot.method import StoreMethod

PLACES = (KeyPlace(1, "mean"), KeyPlace(4, "last"))
METHODS = {
    "scen-lr": StoreMethod("scen-lr", 3, 2, PLACES, None, {}),
    "scen": StoreMethod("scen", 3, 0, (), 0.65, {}),
}


def low_rank(count: int, mark: int) -> dict[str, Tensor]:
    """Experts and keys in half precision, each filled with a number of its own."""
    number_E11 = (torch.arange(count) + mark).half()[:, None, None]
    return {
        "down": number_E11.expand(count, 2, 64),
        "up": number_E11.expand(count, 32, 2) / 4,
        "key": key_of(number_E11),
    }


def key_of(mark_E11: Tensor) -> Tensor:
    """key_EKF: keys whose direction shows their mark."""
    draw = torch.randn(2, 2, 64, generator=torch.Generator().manual_seed(1))
    angle_E11 = mark_E11.float() / 3
    return (draw[0] * angle_E11.cos() + draw[1] * angle_E11.sin()).half()


def whole(count: int, mark: int) -> dict[str, Tensor]:
    """Experts and neurons of the paper."""
    number_E11 = (torch.arange(count) + mark).float()[:, None, None]
    return {
        "weight": number_E11.expand(count, 32, 64),
        "neuron": number_E11[..., 0].expand(count, 64),
        "h": number_E11[..., 0].expand(count, 64) / 2,
    }


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "store"))


@pytest.fixture
def router() -> Router:
    """A plain router of two places."""
    sample_NKF = torch.randn(8, 2, 64, generator=torch.Generator().manual_seed(0))
    return plain_router(PLACES, sample_NKF, 0.1, 0.6)


@pytest.fixture
def loader(storage: Storage, tiny: Base, router: Router) -> SnapshotLoader:
    """A loader of method scen-lr."""
    return SnapshotLoader(tiny, METHODS["scen-lr"], router, BundleRows(storage))


@pytest.fixture
def paper(storage: Storage, tiny: Base) -> SnapshotLoader:
    """A loader of method scen."""
    return SnapshotLoader(tiny, METHODS["scen"], None, BundleRows(storage))


def test_rows_come_in_the_order_that_was_asked_for(
    loader: SnapshotLoader, storage: Storage
) -> None:
    a, b = (save_bundle(storage, low_rank(count, mark)) for count, mark in ((3, 1), (4, 10)))
    places = [Place(a, 2), Place(a, 0), Place(b, 3), Place(a, 1), Place(b, 0), Place(b, 1)]
    marks = [3.0, 1.0, 13.0, 2.0, 10.0, 11.0]
    edited = loader.load(places)
    assert isinstance(edited.bank, LowRankBank)
    assert edited.bank.down_ErF[:, 0, 0].tolist() == marks
    assert edited.bank.up_EDr[:, -1, -1].tolist() == [mark / 4 for mark in marks]
    assert isinstance(edited.neurons, KeyNeurons)
    assert edited.bank.down_ErF.dtype == torch.float32
    assert (edited.layer, edited.neurons.router) == (3, loader.router)
    found = edited.neurons.choose(key_of(torch.tensor(marks)[:, None, None]))
    assert found.index_BE[:, 0].tolist() == list(range(6))


def test_full_experts_and_their_neurons(paper: SnapshotLoader, storage: Storage) -> None:
    a, b = (save_bundle(storage, whole(2, mark)) for mark in (1, 10))
    edited = paper.load([Place(b, 1), Place(a, 0)])
    assert isinstance(edited.bank, FullBank)
    assert edited.bank.weight_EDF.shape == (2, 32, 64)
    assert edited.bank.weight_EDF[:, 0, 0].tolist() == [11.0, 1.0]
    assert isinstance(edited.neurons, SigmoidNeurons)
    assert edited.neurons.weight_EF[:, 0].tolist() == [11.0, 1.0]
    assert (edited.neurons.layer, edited.neurons.theta) == (3, 0.65)
    assert paper.tensors([Place(a, 1)], ("h",))["h"].tolist() == [[1.0] * 64]


@pytest.mark.parametrize("method", ["scen-lr", "scen"])
def test_without_edits_it_answers_like_the_base(
    tiny: Base,
    encoded: list[EncodedEdit],
    loader: SnapshotLoader,
    paper: SnapshotLoader,
    method: str,
) -> None:
    batch = pad_prompts([edit.prompt for edit in encoded], tiny.pad_id)
    told = tiny.model.generate(
        input_ids=batch.ids_BP,
        attention_mask=batch.mask_BP.long(),
        max_new_tokens=8,
        do_sample=False,
    )[:, batch.ids_BP.shape[1] :].tolist()
    edited = (loader if method == "scen-lr" else paper).load([])
    assert len(edited.bank) == len(edited.neurons) == 0
    spoken = decode(edited, batch, 8)
    assert spoken.route.expert_B.tolist() == spoken.route.nearest_B.tolist() == [-1] * 6
    assert [
        row[: len(kept)] for row, kept in zip(told, spoken.tokens, strict=True)
    ] == spoken.tokens
    assert all(len(row) > 0 for row in spoken.tokens)


def test_nothing_yet_has_the_shape_of_something(paper: SnapshotLoader) -> None:
    assert paper.tensors([], ("h", "neuron", "weight"))["h"].shape == (0, 64)


@pytest.mark.parametrize("damage", [b"", b"x", b"flip"])
def test_a_damaged_bundle_is_not_used(
    loader: SnapshotLoader, storage: Storage, damage: bytes
) -> None:
    whole_one, broken = (save_bundle(storage, low_rank(2, mark)) for mark in (1, 5))
    path = storage.local_path / f"bundles/{broken}.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data) if damage == b"flip" else damage)
    with pytest.raises(IntegrityError, match=rf"bundle {broken[:12]} is damaged"):
        loader.load([Place(whole_one, 0), Place(broken, 0)])
    assert len(loader.load([Place(whole_one, 0)]).bank) == 1


def test_a_missing_bundle_is_named(loader: SnapshotLoader) -> None:
    with pytest.raises(NotFoundError, match=r"bundle 000000000000 is missing"):
        loader.load([Place("0" * 64, 0)])


def test_a_bundle_is_read_once(loader: SnapshotLoader, storage: Storage) -> None:
    digest = save_bundle(storage, low_rank(2, 1))
    loader.load([Place(digest, 0)])
    (storage.local_path / f"bundles/{digest}.safetensors").unlink()
    edited = loader.load([Place(digest, 1), Place(digest, 0)])
    assert edited.bank.tensors()["down"][:, 0, 0].tolist() == [2.0, 1.0]


def drawn(count: int, seed: int) -> dict[str, Tensor]:
    """Experts and keys as they are trained, with texts."""
    draw = torch.Generator().manual_seed(seed)
    shapes = {"down": (count, 2, 64), "up": (count, 32, 2), "key": (count, 2, 64)}
    tensors = {name: torch.randn(shape, generator=draw).half() for name, shape in shapes.items()}
    return tensors | {"text": pack_texts([f"Where is {seed}-{i}?" for i in range(count)])}


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("raw_keys", [False, True])
def test_a_bundle_gives_what_was_trained_in_any_form(
    tiny: Base, storage: Storage, router: Router, bits: int, raw_keys: bool
) -> None:
    trained = drawn(5, 1)
    method = replace(METHODS["scen-lr"], bits=bits, raw_keys=raw_keys)
    stored = stored_form(trained, method, router)
    assert ("key" in stored) is raw_keys
    assert {stored[name].dtype for name in ("down", "up")} == (
        {torch.int8} if bits == 8 else {torch.float16}
    )
    loader = SnapshotLoader(tiny, method, router, BundleRows(storage))
    digest = save_bundle(storage, stored)
    edited = loader.load([Place(digest, row) for row in (3, 0)])
    assert isinstance(edited.bank, LowRankBank)
    for name, tensor in edited.bank.tensors().items():
        error = (tensor - trained[name][[3, 0]].float()).abs()
        dim = {"down": 2, "up": 1}[name]
        step = trained[name][[3, 0]].float().abs().amax(dim, keepdim=True) / 127
        assert bool((error <= (0.501 * step if bits == 8 else 0)).all())
    asked_BKF = trained["key"].float() + 0.1
    neurons = KeyNeurons.build(router, trained["key"][[3, 0]].float())
    found, told = edited.neurons.choose(asked_BKF), neurons.choose(asked_BKF)  # type: ignore[attr-defined]
    assert torch.equal(found.index_BE, told.index_BE)
    torch.testing.assert_close(found.score_BE, told.score_BE, rtol=0, atol=1e-5)


def test_compact_and_raw_keys_may_lie_side_by_side(storage: Storage, router: Router) -> None:
    raw, trained = drawn(3, 1), drawn(2, 2)
    compact = stored_form(trained, replace(METHODS["scen-lr"], raw_keys=False), router)
    a, b = save_bundle(storage, raw), save_bundle(storage, compact)
    places = [Place(a, 2), Place(b, 1), Place(b, 0), Place(a, 0)]
    codes = BundleRows(storage).codes(places, router.encoder)
    keys = [raw["key"][2], trained["key"][1], trained["key"][0], raw["key"][0]]
    alone = Codes.of(router.encoder(torch.stack(keys).float()), router.encoder.widths)
    torch.testing.assert_close(codes.int8_EKC, alone.int8_EKC, rtol=0, atol=1)
    torch.testing.assert_close(codes.scale_EKH, alone.scale_EKH)
    other = plain_router(PLACES, torch.randn(8, 2, 64), 0.1, 0.6).encoder
    assert len(BundleRows(storage).codes(places[:1], other)) == 1  # raw keys suit any router
    with pytest.raises(ConfigError, match="compact keys of another router only"):
        BundleRows(storage).codes(places, other)


def test_a_store_that_states_no_form_holds_half_precision_and_raw_keys() -> None:
    known = METHODS["scen-lr"].to_dict()
    del known["bits"], known["raw_keys"]  # as in a manifest of format 2
    method = StoreMethod.from_dict(known)
    assert (method.bits, method.raw_keys) == (16, True)
    trained = drawn(2, 1)
    assert stored_form(trained, method, None) == trained
