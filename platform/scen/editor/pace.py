"""Ranks that share one sharded base must run its modules in step, whatever each has to do."""

from typing import Protocol

from torch import Tensor


class Pace(Protocol):
    """How a rank keeps in step with the others; see `ALONE` for a base that is not sharded."""

    def anyone(self, wants: bool) -> bool:
        """True where any rank wants one more pass of the base: then all must run it, those
        without work of their own with no rows, or with rows that are thrown away."""
        ...

    def whole(self, weight: Tensor) -> Tensor:
        """A weight of the base, gathered where it is sharded; all ranks call it together."""
        ...

    def after_backward(self) -> None:
        """Called after each backward pass, to let go of gathered weights."""
        ...


class _Alone:
    """Nobody to wait for."""

    def anyone(self, wants: bool) -> bool:
        return wants

    def whole(self, weight: Tensor) -> Tensor:
        return weight

    def after_backward(self) -> None:
        pass


ALONE: Pace = _Alone()
