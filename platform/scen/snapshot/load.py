"""From ledger entries to a model: read and check bundles, join their rows, build the router.

The router is the calibrated one of the base's profile, or a plain one where there is no profile.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from scen.config import Config, RouterConfig
from scen.errors import ConfigError
from scen.fs import Storage
from scen.ledger.tensors import load_bundle
from scen.method import METHODS
from scen.model.base import Base
from scen.model.decode import EditedModel
from scen.model.decoder import NO_SYNC, RankSync
from scen.model.expert import build_bank
from scen.model.keys import KeyPlace
from scen.model.route import NeuronBank, SigmoidNeurons
from scen.routing.keys import WIDTH, unpack_texts
from scen.routing.neurons import KeyNeurons
from scen.routing.router import Router, plain_router
from scen.snapshot.method import Profile, StoreMethod, find_profile


@dataclass(frozen=True)
class Place:
    """Where the expert and the neuron of one edit lie."""

    bundle: str
    row: int


@dataclass
class BundleRows:
    """The bundles of a store, each read once as long as they fit into `max_bytes` of memory.

    Where they do not, those that are held stay and the others are read each time: a model is made
    from all bundles in one order, so that the one used longest ago is always the next one wanted.
    """

    storage: Storage
    max_bytes: int = 1 << 30
    held_bytes: int = 0
    _bundles: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    def read(self, places: Sequence[Place], names: Sequence[str]) -> dict[str, Tensor]:
        """The named tensors at these places (at least one), in this order: floats as float32 at
        least, integers as they are.

        Raises IntegrityError where a bundle is damaged, NotFoundError where it is missing.
        """
        parts: dict[str, list[Tensor]] = {name: [] for name in names}
        wanted = {place.bundle for place in places}
        spare = [digest for digest in self._bundles if digest not in wanted]
        for bundle, rows in _runs(places):
            stored = self._bundle(bundle, spare)
            for name in names:
                parts[name].append(_widened(stored[name][rows]))
        return {name: torch.cat(found) for name, found in parts.items()}

    def _bundle(self, digest: str, spare: list[str]) -> dict[str, Tensor]:
        """A bundle, which is kept where it fits; the `spare` ones give way to it."""
        if digest in self._bundles:
            return self._bundles[digest]
        found = load_bundle(self.storage, digest)
        size = _bytes(found)
        while spare and self.held_bytes + size > self.max_bytes:
            self.held_bytes -= _bytes(self._bundles.pop(spare.pop()))
        if self.held_bytes + size <= self.max_bytes:
            self.held_bytes += size
            self._bundles[digest] = found
        return found


def _runs(places: Sequence[Place]) -> list[tuple[str, list[int]]]:
    """Neighbours in one bundle, together."""
    runs: list[tuple[str, list[int]]] = []
    for place in places:
        if not runs or runs[-1][0] != place.bundle:
            runs.append((place.bundle, []))
        runs[-1][1].append(place.row)
    return runs


def _bytes(bundle: dict[str, Tensor]) -> int:
    return sum(tensor.nbytes for tensor in bundle.values())


def _widened(tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


@dataclass(frozen=True)
class SnapshotLoader:
    """Builds edited models of one store on one base; bundles are read once."""

    base: Base
    method: StoreMethod
    router: Router | None  # None for method scen
    rows: BundleRows

    def load(self, places: Sequence[Place], sync: RankSync = NO_SYNC) -> EditedModel:
        """The base with the experts and neurons at these places, in this order.

        Raises IntegrityError where a bundle is damaged, NotFoundError where it is missing.
        """
        kind = self.method.kind
        neuron_names = (n for n in kind.neuron_tensors if n != "text" or self.reads_words)
        tensors = self.tensors(places, (*kind.expert_tensors, *neuron_names))
        neurons = self._neurons(tensors)
        bank = build_bank({name: tensors[name] for name in kind.expert_tensors})
        base = self.base
        return EditedModel(
            base.model, self.method.layer, bank, neurons, base.pad_id, base.stop_ids, sync
        )

    def tensors(self, places: Sequence[Place], names: Sequence[str]) -> dict[str, Tensor]:
        """The named rows of the bundles as tensors on the base's device, float32 at least."""
        if not places:
            return {name: self._empty(name) for name in names}
        rows = self.rows.read(places, names)
        return {name: tensor.to(self.base.device) for name, tensor in rows.items()}

    @property
    def reads_words(self) -> bool:
        """True where the router compares words as well; bundles that were made for routers which
        do not may have none."""
        return self.router is not None and self.router.evidence is not None

    def _empty(self, name: str) -> Tensor:
        config = self.base.config
        wide, narrow, rank = config.intermediate_size, config.hidden_size, self.method.rank
        shapes = {
            "down": (0, rank, wide),
            "up": (0, narrow, rank),
            "weight": (0, narrow, wide),
            "key": (0, len(self.method.places), wide),
            "text": (0, WIDTH),
        }
        return torch.zeros(shapes.get(name, (0, wide)), device=self.base.device)

    def _neurons(self, tensors: dict[str, Tensor]) -> NeuronBank:
        if self.router is None:
            assert self.method.theta is not None
            return SigmoidNeurons(self.method.layer, tensors["neuron"], self.method.theta)
        texts = unpack_texts(tensors["text"].cpu()) if self.reads_words else None
        return KeyNeurons.build(self.router, tensors["key"].cpu(), texts)


PLAIN_THRESHOLD = 0.6


def choose_profile(config: Config, base: Base) -> Profile | None:
    """The profile that the settings mean for a base, if any. Raises ConfigError."""
    if not METHODS[config.method].has_router or config.router.places is not None:
        return None
    return find_profile(config.router.profile, base)


def make_router(
    config: Config,
    base: Base,
    profile: Profile | None,
    places: tuple[KeyPlace, ...],
    read: Callable[[], Tensor],
) -> Router:
    """The router of a new store; without a profile `read` gives the keys of neutral prompts.

    Raises ConfigError where a bound is asked of a base that was never calibrated.
    """
    if profile is not None:
        return _cut(profile.router, config.router)
    if config.router.max_false_activation is not None:
        raise ConfigError(
            f"router.max_false_activation: {base.name} has no profile to hold a bound by. "
            "`scen calibrate` makes one; or set router.threshold"
        )
    plain = plain_router(places, read(), config.router.shrinkage, PLAIN_THRESHOLD)
    return _cut(plain, config.router)


def require_router(config: Config, base: Base, stored: Router) -> None:
    """Raises ConfigError where the settings mean another router than the one that is stored."""
    settings = config.router
    profile = None if settings.profile in ("auto", "none") else choose_profile(config, base)
    meant = _cut(stored if profile is None else profile.router, settings)
    ours, theirs = stored.tensors(), meant.tensors()
    if any(not torch.equal(ours[name].nan_to_num(), theirs[name].nan_to_num()) for name in ours):
        raise ConfigError(
            f"router: this store has its own, {stored.describe()}, and not the one of the "
            f"settings, {meant.describe()}. Leave out router.*, or use another --store"
        )


def _cut(router: Router, settings: RouterConfig) -> Router:
    """The router with the threshold that the settings ask for."""
    if settings.threshold is not None:
        return router.cut_at(settings.threshold)
    if settings.max_false_activation is not None:
        return router.bounded(settings.max_false_activation)
    return router
