"""A store on a base: made on first use, bound to that base and method from then on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scen.base.embedded import EMBEDDED_NAME
from scen.base.load import Base, load_base
from scen.config import BaseConfig, Config
from scen.editor.decode import EditedModel
from scen.errors import NotFoundError
from scen.fs import Storage
from scen.registry.ledger import Ledger, create_or_open, open_ledger
from scen.registry.manifest import StoreManifest, read_manifest
from scen.registry.snapshot import Snapshot
from scen.snapshot.load import Place, SnapshotLoader
from scen.snapshot.method import StoreMethod, resolve_method
from scen.snapshot.whiten import fit_whitening
from scen.store.bundles import save_bundle

Say = Callable[[str], None]


@dataclass(frozen=True)
class OpenStore:
    """A store and its base, ready to be edited or asked."""

    storage: Storage
    base: Base
    ledger: Ledger
    method: StoreMethod
    loader: SnapshotLoader

    def edited_model(self, snapshot: Snapshot) -> EditedModel:
        """The base with all active edits of a snapshot, experts in the order of its entries."""
        return self.loader.load([Place(entry.bundle, entry.row) for entry in snapshot.entries])


def load_store_base(storage: Storage, wanted: BaseConfig, say: Say) -> Base:
    """The base named in the settings; where none is, the store's own, else the embedded one."""
    bound = _bound_base(storage)
    name: Any = wanted.name
    template: Any = wanted.template
    dtype: Any = wanted.dtype
    if name is None and bound is not None:
        name = bound["name"]
        template = bound["template"] if template == "auto" else template
        dtype = bound["dtype"] if dtype == "auto" else dtype
    name = name or EMBEDDED_NAME
    say(f"loading base {name}")
    return load_base(name, template=template, dtype=dtype, device=wanted.device, say=say)


def create_store(
    storage: Storage, config: Config, neutral: Sequence[str], say: Say = lambda _: None
) -> OpenStore:
    """Open a store for editing; a new one is bound to the base and method of the settings.

    `neutral` prompts give the base's own statistics of keys. Raises BaseError where the store
    belongs to another base, ConfigError where it uses another method.
    """
    base = load_store_base(storage, config.base, say)
    method = resolve_method(config, base.num_layers)
    artifacts: dict[str, str] = {}
    if method.method == "scen-lr" and _bound_base(storage) is None:
        say(f"reading the base's own statistics from {len(neutral)} neutral prompts")
        whitening = fit_whitening(base, method.places, neutral, config.router.shrinkage)
        artifacts["whitening"] = save_bundle(storage, whitening.tensors())
    facts = base.describe()
    del facts["device"]
    ledger = create_or_open(storage, StoreManifest.new(facts, method.to_dict(), artifacts))
    return _join(storage, base, ledger)


def open_store(storage: Storage, wanted: BaseConfig, say: Say = lambda _: None) -> OpenStore:
    """Open a store for asking. Raises NotFoundError where there is none, BaseError where the
    base is not the store's."""
    ledger = open_ledger(storage)
    base = load_store_base(storage, wanted, say)
    ledger.manifest.require_base(base.describe())
    return _join(storage, base, ledger)


def _join(storage: Storage, base: Base, ledger: Ledger) -> OpenStore:
    method = StoreMethod.from_dict(ledger.manifest.method)
    whitening = ledger.manifest.artifacts.get("whitening")
    return OpenStore(
        storage, base, ledger, method, SnapshotLoader(storage, base, method, whitening)
    )


def _bound_base(storage: Storage) -> Mapping[str, Any] | None:
    try:
        return read_manifest(storage).base
    except NotFoundError:
        return None
