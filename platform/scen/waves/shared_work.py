"""Work in numbered pieces that several ranks share, each piece done once and written down."""

from typing import Any, Protocol

from scen.model.decoder import RankSync


class SharedWork(Protocol):
    """The pieces of `TrainingWork` (parts) or `EvaluationWork` (batches)."""

    @property
    def sync(self) -> RankSync:
        """How ranks that share a base keep in step."""
        ...

    @property
    def task(self) -> Any:
        """What another process makes the same pieces from."""
        ...

    @property
    def count(self) -> int:
        """How many pieces there are."""
        ...

    def size(self, index: int) -> int:
        """Edits or prompts of a piece."""
        ...

    def is_done(self, index: int) -> bool:
        """True where a piece is written down."""
        ...

    def run(self, index: int) -> Any:
        """Do a piece, and keep nothing."""
        ...

    def keep(self, index: int, found: Any) -> None:
        """Write down what a piece came to."""
        ...


def do_share(work: SharedWork, rank: int, world: int) -> None:
    """Do each `world`-th piece from `rank` on that is not done yet.

    Ranks of a sharded base go in step: one that has no piece left repeats one for nothing.
    """
    mine = [i for i in range(work.count) if i % world == rank and not work.is_done(i)]
    for step in range(work.count + 1):
        if not work.sync.anyone(step < len(mine)):
            return
        if step < len(mine):
            work.keep(mine[step], work.run(mine[step]))
        else:
            work.run(0)
