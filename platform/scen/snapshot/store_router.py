"""The router of a store: fitted by calibration, or the plain one of a base without a profile."""

from collections.abc import Callable

import torch
from torch import Tensor

from scen.base.load import Base
from scen.config import Config, RouterConfig
from scen.editor.keys import KeyPlace
from scen.errors import ConfigError
from scen.method import METHODS
from scen.routing.router import Router, plain_router
from scen.snapshot.base_profile import Profile, find_profile

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
