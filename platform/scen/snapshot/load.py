"""From ledger entries to a model: read and verify bundles, join their rows, build the router.

The router is the calibrated one of the base's profile, or an uncalibrated one without a profile.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from scen.config import Config, RouterConfig
from scen.errors import ConfigError
from scen.fs import Storage
from scen.ledger.tensors import load_bundle, pack_int8, read_tensor
from scen.method import METHODS
from scen.model.base import Base
from scen.model.decode import EditedModel
from scen.model.decoder import NO_SYNC, RankSync
from scen.model.expert import build_bank
from scen.model.keys import KeyPlace
from scen.model.route import NeuronBank, SigmoidNeurons
from scen.routing.key_bank import Codes
from scen.routing.keys import KeyEncoder, unpack_texts
from scen.routing.neurons import KeyNeurons, NeuronBuffer, bundle_codes, compact_form
from scen.routing.router import Router, plain_router
from scen.snapshot.method import (
    SOURCES,
    Profile,
    StoreMethod,
    find_profile,
    profile_setting,
)


@dataclass(frozen=True)
class Place:
    """The location of the expert and neuron of one edit."""

    bundle: str
    row: int


@dataclass
class BundleRows:
    """The bundles of a store, each read once as long as they fit into `max_bytes` of memory.

    If they do not fit, cached bundles stay and the others are read each time. Models read all
    bundles in the same order, so LRU eviction would always drop the one needed next.
    """

    storage: Storage
    max_bytes: int = 1 << 30
    held_bytes: int = 0
    _bundles: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    def read(self, places: Sequence[Place], names: Sequence[str]) -> dict[str, Tensor]:
        """The named tensors at these places (at least one), in this order: floats as float32 or
        wider, integers unchanged.

        Raises IntegrityError if a bundle is damaged, NotFoundError if it is missing.
        """
        parts: dict[str, list[Tensor]] = {name: [] for name in names}
        for bundle, rows in self._bundle_rows(places):
            for name in names:
                parts[name].append(read_tensor(bundle, name, rows))
        return {name: torch.cat(tensors) for name, tensors in parts.items()}

    def codes(self, places: Sequence[Place], encoder: KeyEncoder) -> Codes:
        """The compact keys at these places (at least one), in this order, for bundles with raw or
        with compact keys. Raises as `read` does."""
        rows = self._bundle_rows(places)
        return Codes.join([bundle_codes(bundle, numbers, encoder) for bundle, numbers in rows])

    def _bundle_rows(
        self, places: Sequence[Place]
    ) -> Iterator[tuple[dict[str, Tensor], list[int]]]:
        """The bundles of these places, and the rows in each."""
        needed = {place.bundle for place in places}
        evictable = [digest for digest in self._bundles if digest not in needed]
        for digest, rows in _runs(places):
            yield self._bundle(digest, evictable), rows

    def _bundle(self, digest: str, evictable: list[str]) -> dict[str, Tensor]:
        """A bundle, cached if it fits; `evictable` ones are dropped for it."""
        if digest in self._bundles:
            return self._bundles[digest]
        bundle = load_bundle(self.storage, digest)
        size = _bytes(bundle)
        while evictable and self.held_bytes + size > self.max_bytes:
            self.held_bytes -= _bytes(self._bundles.pop(evictable.pop()))
        if self.held_bytes + size <= self.max_bytes:
            self.held_bytes += size
            self._bundles[digest] = bundle
        return bundle


def _runs(places: Sequence[Place]) -> list[tuple[str, list[int]]]:
    """Consecutive places of the same bundle, as (bundle, rows)."""
    runs: list[tuple[str, list[int]]] = []
    for place in places:
        if not runs or runs[-1][0] != place.bundle:
            runs.append((place.bundle, []))
        runs[-1][1].append(place.row)
    return runs


def _bytes(bundle: dict[str, Tensor]) -> int:
    return sum(tensor.nbytes for tensor in bundle.values())


_SHARED_SCALE = {"down": 2, "up": 1}  # per row of `down` and column of `up`: per rank


def stored_form(
    tensors: Mapping[str, Tensor], method: StoreMethod, router: Router | None
) -> dict[str, Tensor]:
    """The tensors of a wave as its bundle holds them: experts in the store's number of bits, and
    compact instead of raw keys unless the store keeps raw ones."""
    stored = dict(tensors)
    if method.bits == 8:
        for name, dim in _SHARED_SCALE.items():
            stored |= pack_int8(name, stored.pop(name), dim)
    if router is not None and not method.raw_keys:
        stored |= compact_form(stored.pop("key"), router.encoder)
    return stored


@dataclass(frozen=True)
class SnapshotLoader:
    """Builds edited models of one store on one base; bundles are read once."""

    base: Base
    method: StoreMethod
    router: Router | None  # None for method scen
    rows: BundleRows

    def load(self, places: Sequence[Place], sync: RankSync = NO_SYNC) -> EditedModel:
        """The base with the experts and neurons at these places, in this order.

        Raises IntegrityError if a bundle is damaged, NotFoundError if it is missing.
        """
        kind = self.method.kind
        bank = build_bank(self.tensors(places, kind.expert_tensors))
        neurons = self._neurons(places)
        base = self.base
        return EditedModel(
            base.model, self.method.layer, bank, neurons, base.pad_id, base.stop_ids, sync
        )

    def tensors(self, places: Sequence[Place], names: Sequence[str]) -> dict[str, Tensor]:
        """The named tensors at these places on the base's device; floats as float32 or wider."""
        if not places:
            return {name: self._empty(name) for name in names}
        rows = self.rows.read(places, names)
        return {name: tensor.to(self.base.device) for name, tensor in rows.items()}

    @property
    def reads_words(self) -> bool:
        """True if the router also compares words; bundles made for routers that do not may have no
        texts."""
        return self.router is not None and self.router.evidence is not None

    def _empty(self, name: str) -> Tensor:
        config = self.base.config
        inner, hidden, rank = config.intermediate_size, config.hidden_size, self.method.rank
        shapes = {
            "down": (0, rank, inner),
            "up": (0, hidden, rank),
            "weight": (0, hidden, inner),
        }
        return torch.zeros(shapes.get(name, (0, inner)), device=self.base.device)

    def _neurons(self, places: Sequence[Place]) -> NeuronBank:
        if self.router is None:
            assert self.method.theta is not None
            weight_EF = self.tensors(places, ("neuron",))["neuron"]
            return SigmoidNeurons(self.method.layer, weight_EF, self.method.theta)
        if not places:
            return KeyNeurons.of_rows(NeuronBuffer(self.router), torch.arange(0))
        texts = (
            unpack_texts(self.rows.read(places, ("text",))["text"]) if self.reads_words else None
        )
        return KeyNeurons.of_codes(self.router, self.rows.codes(places, self.router.encoder), texts)


PLAIN_THRESHOLD = 0.6


def choose_profile(config: Config, base: Base) -> Profile | None:
    """The profile that the settings select for a base, if any. Raises ConfigError."""
    if not METHODS[config.method].has_router or config.router.places is not None:
        return None
    return find_profile(profile_setting(config), base)


def wants_calibration(config: Config) -> bool:
    """True if a base without profile is to be calibrated on its first use."""
    has_places = config.router.places is not None
    return (
        METHODS[config.method].has_router and not has_places and profile_setting(config) == "auto"
    )


def make_router(
    config: Config,
    base: Base,
    profile: Profile | None,
    places: tuple[KeyPlace, ...],
    read: Callable[[], Tensor],
) -> Router:
    """The router of a new store; without a profile, `read` returns the keys of neutral prompts.

    Raises ConfigError if the profile is of another base, or if the settings bound false activations
    of a base without profile.
    """
    if profile is not None:
        if not profile.is_of(base):
            raise ConfigError(
                f"router.profile: {config.router.profile} was made for {profile.base['name']} "
                f"({profile.base['template']}), not for {base.name} ({base.template.name})"
            )
        return _cut(profile.router, config.router)
    if config.router.max_false_activation is not None:
        raise ConfigError(
            f"router.max_false_activation: {base.name} has no profile, which this "
            "bound needs. `scen calibrate` makes one; or set router.threshold"
        )
    plain = plain_router(places, read(), config.router.shrinkage, PLAIN_THRESHOLD)
    return _cut(plain, config.router)


def require_router(config: Config, base: Base, stored: Router) -> None:
    """Raises ConfigError if the settings define another router than the stored one."""
    settings = config.router
    profile = None if settings.profile in SOURCES else choose_profile(config, base)
    configured = _cut(stored if profile is None else profile.router, settings)
    ours, theirs = stored.tensors(), configured.tensors()
    if any(not torch.equal(ours[name].nan_to_num(), theirs[name].nan_to_num()) for name in ours):
        raise ConfigError(
            f"router: this store has its own, {stored.describe()}, and not the one of the "
            f"settings, {configured.describe()}. Leave out router.*, or use another --store"
        )


def _cut(router: Router, settings: RouterConfig) -> Router:
    """The router with the threshold or bound of the settings."""
    if settings.threshold is not None:
        return router.cut_at(settings.threshold)
    if settings.max_false_activation is not None:
        return router.bounded(settings.max_false_activation)
    return router
