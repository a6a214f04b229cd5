"""What a wave needs from the world: the same `run_wave` runs in one process or on a cluster."""

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

from scen.waves.journal import Journal
from scen.waves.plan import Wave


class WaveParts(Protocol):
    """The steps of a wave. Results are JSON values; large things lie in bundles named by digest."""

    def read_keys(self, prompts: Sequence[str]) -> Tensor:
        """key_NKF float16 of N prompts at the places of the store's router (method scen-lr)."""
        ...

    def train(self, wave: Wave) -> dict[str, Any]:
        """Fit experts and neurons, write their bundle; `{"bundle": digest, "losses": [...]}`."""
        ...

    def evaluate(self, wave: Wave, trained: dict[str, Any]) -> dict[str, Any]:
        """Measure it on top of what is committed; `{"report": ..., "per_edit_path": ..., ...}`."""
        ...

    def judge(self, evaluated: dict[str, Any]) -> list[str]:
        """The bounds that the wave falls under, in words."""
        ...

    def commit(self, wave: Wave, trained: dict[str, Any], evaluated: dict[str, Any]) -> int:
        """The ledger version that holds the wave, committed now or before."""
        ...

    def track(
        self, wave: Wave, journal: Journal, found: dict[str, Any], version: int
    ) -> dict[str, Any]:
        """Show the wave in the tracker, once. Must not fail a wave that is committed."""
        ...
