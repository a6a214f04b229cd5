"""Near-duplicates are found by the workers: the driver holds no weights of the base."""

from functools import partial
from pathlib import Path

import pytest

from cluster.wave_case import LOCALITY, NEUTRAL, case_config
from scen.cluster.parts import RayParts, read_on_workers
from scen.cluster.worker_group import WorkerGroup
from scen.fs import Storage
from scen.pipeline.stream import run_stream
from scen.records import Edit
from scen.snapshot.open import create_store
from scen.tracking.client import NullTracker

pytestmark = pytest.mark.cluster


@pytest.mark.usefixtures("ray")
def test_near_duplicates_are_set_aside_without_weights_here(
    tiny_folder: Path, tmp_path: Path
) -> None:
    edits = [Edit(word, f"Who founded the {word} town?", "Ann") for word in ("old", "olde")]
    strict = {"on_collision": "quarantine"}
    config = case_config(tiny_folder, router={"threshold": 0.45}, waves=strict)
    with WorkerGroup() as group:
        read = partial(read_on_workers, group)
        store = create_store(Storage(str(tmp_path)), config, NEUTRAL, elsewhere=read)
        parts = RayParts(store, config, LOCALITY, NullTracker(), group=group)
        [step] = run_stream("news", [edits], store, config, parts)
    assert [clash.edit.id for clash in step.admission.rejections] == ["olde"]
    assert store.ledger.snapshot().ids == ["old"]
    assert not store.base.is_loaded
