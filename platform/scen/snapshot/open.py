"""Open a store, or one version of it, on its base."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from scen.config import BaseConfig, Config
from scen.errors import NotFoundError
from scen.fs import Storage
from scen.ledger.ledger import Ledger, create_or_open, open_ledger
from scen.ledger.manifest import SnapshotPointer, StoreManifest, bank_rows, read_manifest
from scen.ledger.state import Snapshot
from scen.ledger.tensors import load_bundle, save_bundle
from scen.model.base import Base, load_base, open_base
from scen.model.decode import EditedModel
from scen.model.keys import KeyPlace
from scen.model.weights import EMBEDDED_NAME
from scen.routing.keys import read_prompt_keys
from scen.routing.router import Router
from scen.snapshot.ask import VersionModel
from scen.snapshot.load import (
    BundleRows,
    Place,
    SnapshotLoader,
    choose_profile,
    make_router,
    require_router,
)
from scen.snapshot.method import StoreMethod, resolve_method, stated_method

Say = Callable[[str], None]
Places = tuple[KeyPlace, ...]

# The keys of prompts at these places, read by others: for a store that is being made in this
# place, under these settings, on this base.
ReadElsewhere = Callable[[Storage, Config, Base, Places, Sequence[str]], Tensor]


@dataclass(frozen=True)
class OpenStore:
    """A store and its base, ready to be edited or asked."""

    storage: Storage
    base: Base
    ledger: Ledger
    method: StoreMethod
    loader: SnapshotLoader

    @property
    def threshold(self) -> float:
        """The score above which an edit speaks."""
        if self.loader.router is not None:
            return self.loader.router.threshold
        assert self.method.theta is not None
        return self.method.theta

    def edited_model(self, snapshot: Snapshot) -> EditedModel:
        """The base with all active edits of a snapshot, experts in the order of its entries."""
        return self.loader.load([Place(entry.bundle, entry.row) for entry in snapshot.entries])

    def at(self, snapshot: Snapshot) -> VersionModel:
        """A snapshot as a model that can be asked."""
        edited = self.edited_model(snapshot)
        return VersionModel(self.base, edited, snapshot.ids, snapshot.version, self.threshold)


def load_store_base(
    storage: Storage, wanted: BaseConfig, say: Say, *, weights: bool = True
) -> Base:
    """The base named in the settings; where none is, the store's own, else the embedded one.

    Without `weights`, these are only loaded where somebody asks for them.
    """
    manifest = _find_manifest(storage)
    name: Any = wanted.name
    template: Any = wanted.template
    dtype: Any = wanted.dtype
    if name is None and manifest is not None:
        bound = manifest.base
        name = bound["name"]
        template = bound["template"] if template == "auto" else template
        dtype = bound["dtype"] if dtype == "auto" else dtype
    name = name or EMBEDDED_NAME
    say(f"loading base {name}" if weights else f"opening base {name}, without its weights")
    find = load_base if weights else open_base
    return find(name, template=template, dtype=dtype, device=wanted.device, say=say)


def create_store(
    storage: Storage,
    config: Config,
    neutral: Sequence[str],
    say: Say = lambda _: None,
    elsewhere: ReadElsewhere | None = None,
    base: Base | None = None,
) -> OpenStore:
    """Open a store for editing; a new one is bound to the base, method and router of the settings.

    `neutral` prompts give the statistics of a base without profile. Where others read them
    (`elsewhere`), this process goes without the base's weights. `base`: the one of the settings,
    where it is loaded already. Raises BaseError where the store belongs to another base,
    ConfigError where it uses another method or router.
    """
    ours = base or load_store_base(storage, config.base, say, weights=elsewhere is None)
    facts = ours.describe()
    del facts["device"]

    def read(places: Places) -> Tensor:
        say(f"reading the base's own statistics from {len(neutral)} neutral prompts")
        if elsewhere is None:
            return read_prompt_keys(ours, places, neutral)
        return elsewhere(storage, config, ours, places, neutral)

    if _find_manifest(storage) is None:
        method, artifacts = _first_parts(storage, config, ours, read)
        meant = StoreManifest.new(facts, method.to_dict(), artifacts)
    else:
        meant = StoreManifest.new(facts, stated_method(config), {})
    store = _join(storage, ours, create_or_open(storage, meant))
    if store.loader.router is not None:
        require_router(config, ours, store.loader.router)
    return store


def open_store(
    storage: Storage, wanted: BaseConfig, say: Say = lambda _: None, *, weights: bool = True
) -> OpenStore:
    """Open a store for asking; `weights` as in `load_store_base`. Raises NotFoundError where there
    is none, BaseError where the base is not the store's."""
    open_ledger(storage)  # before a base is loaded for nothing
    return open_on(storage, load_store_base(storage, wanted, say, weights=weights))


def open_on(storage: Storage, base: Base) -> OpenStore:
    """Open a store on a base that is loaded. Raises as `open_store` does."""
    ledger = open_ledger(storage)
    ledger.manifest.require_base(base.describe())
    return _join(storage, base, ledger)


def _first_parts(
    storage: Storage, config: Config, base: Base, read: Callable[[Places], Tensor]
) -> tuple[StoreMethod, dict[str, str]]:
    """What a new store is bound to: its method, and the bundles that belong to it."""
    profile = choose_profile(config, base)
    method = resolve_method(config, base.num_layers, profile)
    if not method.kind.has_router:
        return method, {}
    router = make_router(config, base, profile, method.places, lambda: read(method.places))
    return method, {"router": save_bundle(storage, router.tensors())}


def _join(storage: Storage, base: Base, ledger: Ledger) -> OpenStore:
    method = StoreMethod.from_dict(ledger.manifest.method)
    loader = SnapshotLoader(base, method, stored_router(storage, ledger), BundleRows(storage))
    return OpenStore(storage, base, ledger, method, loader)


def stored_router(storage: Storage, ledger: Ledger) -> Router | None:
    """The router that a store is bound to; None for method scen."""
    digest = ledger.manifest.artifacts.get("router")
    return None if digest is None else Router.from_tensors(load_bundle(storage, digest))


def _find_manifest(storage: Storage) -> StoreManifest | None:
    try:
        return read_manifest(storage)
    except NotFoundError:
        return None


def open_pointer(
    pointer: SnapshotPointer,
    *,
    store: str | None = None,
    base: str | None = None,
    device: str = "auto",
    say: Callable[[str], None] = lambda _: None,
) -> VersionModel:
    """The model of a pointer. `store` and `base` say where they are now, if not where they were.

    Raises NotFoundError where there is no such store, version or bundle, BaseError where the base
    is another, IntegrityError where the version is not what was registered or a bundle is damaged.
    """
    storage = Storage(store or pointer.store)
    ledger = _ledger(storage)
    snapshot = ledger.snapshot(pointer.version)
    pointer.require(ledger.manifest, snapshot)  # before a base is loaded for nothing
    facts: dict[str, Any] = {name: pointer.base[name] for name in ("name", "template", "dtype")}
    wanted = BaseConfig(**facts | {"device": device} | ({"name": base} if base else {}))
    opened = open_on(storage, load_store_base(storage, wanted, say))
    rows = bank_rows(snapshot, pointer.held)
    edited = opened.loader.load([Place(row.bundle, row.row) for row in rows])
    ids = [row.edit_id for row in rows]
    return VersionModel(opened.base, edited, ids, pointer.version, opened.threshold)


def _ledger(storage: Storage) -> Ledger:
    try:
        return open_ledger(storage)
    except NotFoundError as err:
        raise NotFoundError(
            f"store: there is no ledger at {storage.uri}. If it was moved, say where it is: "
            "mlflow.pyfunc.load_model(URI, model_config={'store': ...})"
        ) from err
