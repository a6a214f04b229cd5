"""Running a base in part: hooks that read it, and ranks that run it in lockstep."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from torch import Tensor


@contextmanager
def capture_inputs(model: Any, layers: Iterable[int]) -> Iterator[dict[int, Tensor]]:
    """Within this block, each forward leaves the `down_proj` inputs of these layers in the dict."""
    found: dict[int, Tensor] = {}

    def keep(layer: int) -> Any:
        def hook(_module: Any, args: tuple[Tensor, ...]) -> None:
            found[layer] = args[0].detach()

        return hook

    handles = [
        model.model.layers[i].mlp.down_proj.register_forward_pre_hook(keep(i)) for i in set(layers)
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def tap_sum(model: Any, layer: int) -> Iterator[dict[str, Tensor]]:
    """Within this block, each forward leaves the two terms of a layer's output in the dict:
    `rest` (the residual stream after attention) and `y` (what the MLP adds)."""
    found: dict[str, Tensor] = {}
    block = model.model.layers[layer]

    def keep_rest(_module: Any, args: tuple[Tensor, ...]) -> None:
        found["rest"] = args[0].detach()

    def keep_y(_module: Any, _args: Any, out: Tensor) -> None:
        found["y"] = out.detach()

    handles = [
        block.post_attention_layernorm.register_forward_pre_hook(keep_rest),
        block.mlp.register_forward_hook(keep_y),
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


class RankSync(Protocol):
    """How a rank keeps in step with the others; see `NO_SYNC` for a base that is not sharded."""

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


class _NoSync:
    """Nobody to wait for."""

    def anyone(self, wants: bool) -> bool:
        return wants

    def whole(self, weight: Tensor) -> Tensor:
        return weight

    def after_backward(self) -> None:
        pass


NO_SYNC: RankSync = _NoSync()
