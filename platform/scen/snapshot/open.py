"""Open a store, or one version of it, on its base."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
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
    wants_calibration,
)
from scen.snapshot.method import (
    NO_PROFILE,
    Profile,
    StoreMethod,
    resolve_method,
    stated_method,
)

Say = Callable[[str], None]
Places = tuple[KeyPlace, ...]

# Makes the profile of a base that has none, on its first use; None if it cannot be calibrated. With
# a profile of other weights as a second argument, takes that one over.
Calibrate = Callable[..., Profile | None]

# Reads the keys of prompts at these places in other processes, for a store that is being created.
ReadElsewhere = Callable[[Storage, Config, Base, Places, Sequence[str]], Tensor]


@dataclass(frozen=True)
class OpenStore:
    """A store and its base, ready for editing and inference."""

    storage: Storage
    base: Base
    ledger: Ledger
    method: StoreMethod
    loader: SnapshotLoader
    """With the router that the store was created with; see `loader_at`."""
    _routers: dict[str, Router] = field(default_factory=dict, repr=False, compare=False)

    def loader_at(self, snapshot: Snapshot) -> SnapshotLoader:
        """The loader with the router of a snapshot."""
        digest = snapshot.state.router
        if digest is None:
            return self.loader
        if digest not in self._routers:
            self._routers[digest] = Router.from_tensors(load_bundle(self.storage, digest))
        return replace(self.loader, router=self._routers[digest])

    @property
    def threshold(self) -> float:
        """The score above which an edit answers at the newest version."""
        return self.threshold_at(self.ledger.snapshot())

    def threshold_at(self, snapshot: Snapshot) -> float:
        """The score above which an edit answers at a snapshot."""
        router = self.loader_at(snapshot).router
        if router is not None:
            return router.threshold
        assert self.method.theta is not None
        return self.method.theta

    def edited_model(self, snapshot: Snapshot) -> EditedModel:
        """The base with all active edits of a snapshot, experts in the order of its entries."""
        places = [Place(entry.bundle, entry.row) for entry in snapshot.entries]
        return self.loader_at(snapshot).load(places)

    def at(self, snapshot: Snapshot) -> VersionModel:
        """The model of a snapshot."""
        edited, threshold = self.edited_model(snapshot), self.threshold_at(snapshot)
        return VersionModel(self.base, edited, snapshot.ids, snapshot.version, threshold)


def load_store_base(
    storage: Storage, wanted: BaseConfig, say: Say, *, weights: bool = True
) -> Base:
    """The base named in the settings, else that of the store, else the embedded one.

    With `weights=False`, the weights are only loaded on first use.
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
    load = load_base if weights else open_base
    return load(name, template=template, dtype=dtype, device=wanted.device, say=say)


def create_store(  # noqa: PLR0913
    storage: Storage,
    config: Config,
    neutral: Sequence[str],
    say: Say = lambda _: None,
    elsewhere: ReadElsewhere | None = None,
    base: Base | None = None,
    calibrate: Calibrate | None = None,
) -> OpenStore:
    """Open a store for editing; a new one is bound to the base, method and router of the settings.

    The statistics of a base without profile are read from the `neutral` prompts. If `elsewhere`
    reads them in other processes, this one does not load the base's weights. `base` is that of the
    settings, if it is loaded already. `calibrate` makes the profile of a base without one, if the
    settings want it. Raises BaseError if the store belongs to another base,
    ConfigError if it uses another method or router.
    """
    opened = base or load_store_base(storage, config.base, say, weights=elsewhere is None)
    facts = opened.describe()
    del facts["device"]

    def read(places: Places) -> Tensor:
        say(f"reading the statistics of the base from {len(neutral)} neutral prompts")
        if elsewhere is None:
            return read_prompt_keys(opened, places, neutral)
        return elsewhere(storage, config, opened, places, neutral)

    if _find_manifest(storage) is None:
        profile = choose_profile(config, opened)
        is_other = profile is not None and not profile.is_of(opened)
        if calibrate is not None and is_other:
            profile = calibrate(opened, profile)
        elif calibrate is not None and profile is None and wants_calibration(config):
            profile = calibrate(opened)
        method = resolve_method(config, opened.num_layers, profile)
        artifacts = {}
        if method.kind.has_router:
            places = method.places
            router = make_router(config, opened, profile, places, lambda: read(places))
            artifacts["router"] = save_bundle(storage, router.tensors())
            facts["profile"] = dict(NO_PROFILE) if profile is None else profile.describe()
        manifest = StoreManifest.new(facts, method.to_dict(), artifacts)
    else:
        manifest = StoreManifest.new(facts, stated_method(config), {})
    store = _join(storage, opened, create_or_open(storage, manifest))
    if store.loader.router is not None:
        require_router(config, opened, store.loader.router)
    return store


def open_store(
    storage: Storage, wanted: BaseConfig, say: Say = lambda _: None, *, weights: bool = True
) -> OpenStore:
    """Open a store for inference; `weights` as in `load_store_base`. Raises NotFoundError if there
    is none, BaseError if the base is not that of the store."""
    open_ledger(storage)  # fail before a base is loaded
    return open_on(storage, load_store_base(storage, wanted, say, weights=weights))


def open_on(storage: Storage, base: Base) -> OpenStore:
    """Open a store on an existing base. Raises as `open_store` does."""
    ledger = open_ledger(storage)
    ledger.manifest.require_base(base.describe())
    return _join(storage, base, ledger)


def _join(storage: Storage, base: Base, ledger: Ledger) -> OpenStore:
    method = StoreMethod.from_dict(ledger.manifest.method)
    router = stored_router(storage, ledger, Snapshot(0))
    loader = SnapshotLoader(base, method, router, BundleRows(storage))
    return OpenStore(storage, base, ledger, method, loader)


def stored_router(storage: Storage, ledger: Ledger, snapshot: Snapshot) -> Router | None:
    """The router of a version of a store; None for method scen."""
    digest = ledger.manifest.artifacts_at(snapshot.state).get("router")
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
    """The model of a pointer. `store` and `base` give their location if they were moved.

    Raises NotFoundError if the store, version or a bundle does not exist, BaseError if the base is
    another one, IntegrityError if the version is not the registered one or a bundle is damaged.
    """
    storage = Storage(store or pointer.store)
    ledger = _ledger(storage)
    snapshot = ledger.snapshot(pointer.version)
    pointer.require(ledger.manifest, snapshot)  # fail before a base is loaded
    facts: dict[str, Any] = {name: pointer.base[name] for name in ("name", "template", "dtype")}
    wanted = BaseConfig(**facts | {"device": device} | ({"name": base} if base else {}))
    opened = open_on(storage, load_store_base(storage, wanted, say))
    rows = bank_rows(snapshot, pointer.held)
    places = [Place(row.bundle, row.row) for row in rows]
    edited = opened.loader_at(snapshot).load(places)
    ids = [row.edit_id for row in rows]
    threshold = opened.threshold_at(snapshot)
    return VersionModel(opened.base, edited, ids, pointer.version, threshold)


def _ledger(storage: Storage) -> Ledger:
    try:
        return open_ledger(storage)
    except NotFoundError as err:
        raise NotFoundError(
            f"store: there is no ledger at {storage.uri}. If it was moved, pass its location: "
            "mlflow.pyfunc.load_model(URI, model_config={'store': ...})"
        ) from err
