"""A store is bound to the base and the method that it was made with."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from scen.config import BaseConfig, Config
from scen.errors import BaseError, ConfigError, IntegrityError, NotFoundError
from scen.fs import Storage
from scen.ledger.ledger import WaveCommit
from scen.ledger.manifest import read_manifest
from scen.ledger.tensors import load_bundle, save_bundle
from scen.model.base import Base, load_base
from scen.records import Edit
from scen.routing.keys import read_prompt_keys
from scen.routing.neurons import KeyNeurons
from scen.routing.router import plain_router
from scen.snapshot.open import OpenStore, Places, create_store, open_store

MakeConfig = Callable[..., Config]

NONE_NAMED = BaseConfig(device="cpu")


@pytest.fixture
def store(storage: Storage, make_config: MakeConfig, neutral: list[str]) -> OpenStore:
    """A store of method scen-lr without edits."""
    return create_store(storage, make_config(), neutral)


@pytest.fixture
def other_folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A base that differs from the tiny one in a single weight."""
    folder = tmp_path / "other"
    shutil.copytree(tiny_folder, folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] += 1
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_a_new_store_is_bound(store: OpenStore, storage: Storage, neutral: list[str]) -> None:
    manifest = read_manifest(storage)
    assert manifest.base["fingerprint"] == store.base.fingerprint
    assert (manifest.base["template"], manifest.base["dtype"]) == ("llama2-inst", "float32")
    assert "device" not in manifest.base
    assert (store.method.layer, store.ledger.version()) == (4, 0)
    neutral_NKF = read_prompt_keys(store.base, store.method.places, neutral)
    fitted = plain_router(store.method.places, neutral_NKF, 0.1, 0.6).tensors()
    kept = load_bundle(storage, manifest.artifacts["router"])
    assert kept.keys() == fitted.keys()
    assert all(torch.equal(kept[n].nan_to_num(), t.nan_to_num()) for n, t in fitted.items())
    assert store.threshold == 0.6


def test_a_store_is_made_without_weights_where_others_read(
    store: OpenStore, make_config: MakeConfig, neutral: list[str], tmp_path: Path
) -> None:
    other = Storage(str(tmp_path / "elsewhere"))
    asked: list[object] = []

    def read(
        storage: Storage, config: Config, base: Base, places: Places, prompts: object
    ) -> Tensor:
        asked.append((storage.uri, config, places, prompts))
        assert not base.is_loaded
        return read_prompt_keys(store.base, places, neutral)

    config = make_config()
    made = create_store(other, config, neutral, elsewhere=read)
    assert asked == [(other.uri, config, store.method.places, neutral)]
    assert made.ledger.manifest.artifacts == store.ledger.manifest.artifacts
    assert made.ledger.manifest.base == store.ledger.manifest.base
    assert not made.base.is_loaded
    assert not create_store(other, config, neutral, elsewhere=read).base.is_loaded
    assert len(asked) == 1
    assert not open_store(other, NONE_NAMED, weights=False).base.is_loaded
    assert open_store(other, NONE_NAMED).base.is_loaded


def test_another_base_is_refused_by_its_fingerprint_alone(
    store: OpenStore, storage: Storage, make_config: MakeConfig, other_folder: Path
) -> None:
    config = make_config(base={"name": str(other_folder)})
    with pytest.raises(BaseError, match="this store belongs to"):
        open_store(storage, config.base, weights=False)
    with pytest.raises(BaseError, match="this store belongs to"):
        create_store(storage, config, [], elsewhere=unread)
    assert store.base.name != config.base.name


def unread(*_: object) -> Tensor:
    """Nobody is asked to read for a store that has a router."""
    raise AssertionError


def test_the_router_of_the_first_day_stays(
    store: OpenStore, storage: Storage, make_config: MakeConfig
) -> None:
    again = create_store(storage, make_config(), ["Why?", "What is this?"])
    assert again.ledger.manifest == store.ledger.manifest
    assert len(storage.names("bundles")) == 1


def test_the_paper_s_method_needs_no_statistics(storage: Storage, make_config: MakeConfig) -> None:
    store = create_store(storage, make_config("scen"), [])
    assert (store.loader.router, store.threshold) == (None, 0.65)
    assert storage.names("bundles") == []


@pytest.mark.parametrize(
    "use",
    [
        lambda storage, config: create_store(storage, config, []),
        lambda storage, config: open_store(storage, config.base),
    ],
)
def test_another_base_is_refused(
    store: OpenStore,
    storage: Storage,
    make_config: MakeConfig,
    other_folder: Path,
    use: Callable[[Storage, Config], OpenStore],
) -> None:
    config = make_config(base={"name": str(other_folder)})
    with pytest.raises(BaseError) as caught:
        use(storage, config)
    assert store.base.name in str(caught.value)
    assert str(other_folder) in str(caught.value)
    assert read_manifest(storage).base["fingerprint"] == store.base.fingerprint


def test_another_template_is_another_base(
    store: OpenStore, storage: Storage, make_config: MakeConfig
) -> None:
    with pytest.raises(BaseError, match=r"\(llama2-inst, .* not to .*\(raw, "):
        open_store(storage, make_config(base={"template": "raw"}).base)


def test_a_base_is_known_by_its_content(
    store: OpenStore, storage: Storage, tiny_folder: Path, make_config: MakeConfig, tmp_path: Path
) -> None:
    copied = shutil.copytree(tiny_folder, tmp_path / "copied")
    config = make_config(base={"name": str(copied)})
    assert open_store(storage, config.base).base.fingerprint == store.base.fingerprint


@pytest.mark.parametrize(
    ("method", "section", "named"),
    [
        ("scen", {}, "method is 'scen-lr', not 'scen'"),
        ("scen-lr", {"expert": {"layer": 2}}, "layer is 4, not 2"),
        ("scen-lr", {"expert": {"rank": 8}}, "rank is 4, not 8"),
        ("scen-lr", {"router": {"threshold": 0.7}}, "threshold 0.7"),
        ("scen-lr", {"router": {"places": [{"layer": 1, "kind": "last"}]}}, "places is"),
    ],
)
def test_another_method_is_refused(
    store: OpenStore,
    storage: Storage,
    make_config: MakeConfig,
    method: str,
    section: dict[str, dict[str, object]],
    named: str,
) -> None:
    before = storage.names("")
    with pytest.raises(ConfigError) as caught:
        create_store(storage, make_config(method, **section), [])
    assert named in str(caught.value)
    assert "another --store" in str(caught.value)
    assert storage.names("") == before
    assert store.ledger.version() == 0


def test_settings_of_training_may_change(
    store: OpenStore, storage: Storage, make_config: MakeConfig
) -> None:
    config = make_config(expert={"steps": 3, "lr": 0.5}, waves={"size": 7})
    assert create_store(storage, config, []).method == store.method


def test_the_store_s_own_base_is_used_where_none_is_named(
    store: OpenStore, storage: Storage
) -> None:
    """With its own template and number type, although `auto` would be others."""
    said: list[str] = []
    opened = open_store(storage, NONE_NAMED, said.append)
    assert said == [f"loading base {store.base.name}"]
    assert opened.base.describe() == store.base.describe()
    assert opened.base.template.name == "llama2-inst"
    assert load_base(store.base.name, device="cpu").template.name == "raw"
    assert opened.method == store.method


def test_a_number_type_may_be_asked_for(store: OpenStore, storage: Storage) -> None:
    wanted = BaseConfig(device="cpu", dtype="bfloat16")
    assert open_store(storage, wanted).base.dtype == torch.bfloat16


def test_a_store_that_is_not_there(storage: Storage) -> None:
    with pytest.raises(NotFoundError, match="there is no ledger at"):
        open_store(storage, NONE_NAMED)
    assert storage.names("") == []


def test_a_damaged_router_is_not_used(store: OpenStore, storage: Storage) -> None:
    digest = store.ledger.manifest.artifacts["router"]
    (storage.local_path / f"bundles/{digest}.safetensors").write_bytes(b"x")
    with pytest.raises(IntegrityError, match=digest[:12]):
        open_store(storage, NONE_NAMED)


def test_an_edited_model_has_the_entries_in_order(store: OpenStore, edits: list[Edit]) -> None:
    key_EKF = torch.randn(6, 2, 64, generator=torch.Generator().manual_seed(0)).half()
    tensors = {"down": torch.zeros(4, 4, 64), "up": torch.zeros(4, 32, 4), "key": key_EKF[:4]}
    bundle = save_bundle(store.storage, tensors)
    store.ledger.commit(WaveCommit("w0", "s", 0, bundle, edits[:4]), 0)
    other = save_bundle(
        store.storage, {n: t[:2] for n, t in tensors.items()} | {"key": key_EKF[4:]}
    )
    store.ledger.commit(WaveCommit("w1", "s", 1, other, edits[4:]), 1)
    for version, count in ((2, 6), (1, 4), (0, 0)):
        edited = store.edited_model(store.ledger.snapshot(version))
        assert isinstance(edited.neurons, KeyNeurons)
        found = edited.neurons.choose(key_EKF[:count])
        assert found.index_BE[:, 0].tolist() == list(range(count))
