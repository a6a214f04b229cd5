"""Where the routers of the benchmark read their keys in a base."""

from collections.abc import Iterable
from dataclasses import dataclass

from scen.model.base import Base
from scen.model.keys import KeyKind, KeyPlace
from scen.snapshot.method import find_profile

Places = tuple[KeyPlace, ...]

_DEPTHS = 30  # layers of the base that the layers below are meant for; scaled to others
_ROUTER = "mean@6 last@12 last@18 last@24"
_PLAIN = "mean@3 last@24"
_PAPER = "last@20"
_EVERY = " ".join(f"mean@{layer} last@{layer}" for layer in range(3, 30, 3))
_SUBSETS = (
    "last@18",
    "mean@6 last@18",
    "mean@6 last@12 last@24",
    "mean@3 mean@6 last@9 last@12 last@18 last@24",
)


@dataclass(frozen=True)
class PlacePlan:
    """Places of the calibrated router, of the plain one, of the paper's neurons, of the raw keys
    (`every`), and those that are tried besides the router's (`subsets`)."""

    router: Places
    plain: Places
    paper: Places
    every: Places
    subsets: tuple[Places, ...]

    def needed(self, tables: str) -> Places:
        """All places that these tables need."""
        subsets = [place for subset in self.subsets for place in subset]
        of_table = {"D": self.paper, "E": self.plain, "F": (*self.every, *subsets)}
        need = [place for table in tables for place in of_table.get(table, ())]
        return tuple(dict.fromkeys([*self.router, *need]))


def plan_places(base: Base) -> PlacePlan:
    """The router's are those of the base's shipped profile, where there is one; the others are at
    the same relative depths in every base."""
    profile = find_profile("auto", base)
    router = _scaled(_ROUTER, base) if profile is None else profile.router.encoder.places
    subsets = dict.fromkeys(_scaled(subset, base) for subset in _SUBSETS)
    subsets.pop(router, None)
    return PlacePlan(
        router,
        _scaled(_PLAIN, base),
        _scaled(_PAPER, base),
        _scaled(_EVERY, base),
        tuple(subsets),
    )


def _scaled(names: str, base: Base) -> Places:
    return tuple(dict.fromkeys(_places(names.split(), base.num_layers)))


def _places(names: Iterable[str], layers: int) -> Iterable[KeyPlace]:
    for name in names:
        kind, _, layer = name.partition("@")
        known: KeyKind = "mean" if kind == "mean" else "last"
        yield KeyPlace(min(layers - 1, round(int(layer) * layers / _DEPTHS)), known)
