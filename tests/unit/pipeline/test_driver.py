"""A driver whose work is done by others needs no weights of the base."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from scen.pipeline.evaluation_work import EvaluationWork
from scen.pipeline.local import LocalParts
from scen.pipeline.plan import Wave
from scen.pipeline.stream import run_stream
from scen.pipeline.work import SharedWork, TrainingWork, do_share
from scen.records import Edit
from scen.snapshot.open import OpenStore, create_store

MakeParts = Callable[..., LocalParts]


@dataclass(frozen=True)
class DriverParts(LocalParts):
    """Parts whose pieces are done on a store of the workers' own, as on a cluster."""

    theirs: OpenStore | None = None

    def do(self, step: str, work: SharedWork) -> None:
        """Make the pieces from the task anew, as another process does."""
        assert self.theirs is not None
        make = TrainingWork if isinstance(work.task, Wave) else EvaluationWork
        do_share(make.of(work.task, self.config, self.theirs), 0, 1)


def unread(*_: object) -> object:
    """Nobody is asked to read for a store that is there."""
    raise AssertionError


@pytest.mark.slow
@pytest.mark.parametrize("method", ["scen-lr", "scen"])
def test_a_stream_is_driven_without_weights(
    make_parts: MakeParts, facts: list[Edit], tmp_path: Path, method: str
) -> None:
    alone = make_parts(method)
    expected = list(run_stream("news", [facts], alone.store, alone.config, alone))
    (tmp_path / "store").rename(tmp_path / "alone")
    theirs = make_parts(method).store
    mine = create_store(theirs.storage, alone.config, [], elsewhere=unread)  # type: ignore[arg-type]
    parts = DriverParts(mine, alone.config, alone.locality, alone.tracker, theirs=theirs)
    steps = list(run_stream("news", [facts], mine, alone.config, parts))
    assert [s.report and s.report.evaluated["report"] for s in steps] == [
        s.report and s.report.evaluated["report"] for s in expected
    ]
    assert mine.ledger.snapshot().ids == [edit.id for edit in facts]
    assert (mine.base.is_loaded, theirs.base.is_loaded) == (False, True)
