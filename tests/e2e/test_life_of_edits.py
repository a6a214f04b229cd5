"""Real edits on the embedded base are revoked, superseded and rolled back, bit for bit.

SCEN_TEST_EDITS=50 takes as many (default 10): of those, two fifths are revoked one by one, and one
fact is superseded by a fifth as many newer edits.
"""

import os
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import torch
from torch import Tensor

from scen.config import load_config
from scen.data import Validator, ingest
from scen.data.read import read_prompts
from scen.fs import Storage
from scen.ledger.actions import About, Revoke, Rollback
from scen.ledger.bundles import stored_bundles
from scen.ledger.collect import Keep, collect, plan_collection
from scen.ledger.verify import verify_store
from scen.model.batch import pad_prompts
from scen.model.decode import Decoded, answer
from scen.model.route import Route
from scen.pipeline.local import LocalParts
from scen.pipeline.plan import Wave
from scen.pipeline.stream import settings
from scen.records import Edit
from scen.samples import sample_path
from scen.snapshot.open import OpenStore, create_store
from scen.tracking.client import NullTracker

pytestmark = pytest.mark.e2e
COUNT = int(os.environ.get("SCEN_TEST_EDITS", "10"))
TOWNS = ["Oslo", "Lima", "Cairo", "Paris", "Rome", "Delhi", "Quito", "Tunis", "Sofia", "Riga"]


@dataclass
class Life:
    """A store, the edits that it began with, and what it said at each version."""

    parts: LocalParts
    edits: list[Edit]
    said: dict[int, list[list[int]]] = field(default_factory=dict)

    @property
    def store(self) -> OpenStore:
        """The store."""
        return self.parts.store

    def commit(self, edits: list[Edit]) -> int:
        """Train and commit a wave."""
        index = self.store.ledger.version()
        wave = Wave("real", index, tuple(edits), settings(self.parts.config, self.store))
        trained = self.parts.train(wave)
        return self.parts.commit(wave, trained, {"report": {"reliability": None}})

    def ask(self) -> Decoded:
        """All prompts in one batch of the newest version, with their logits."""
        return self._ask(None)

    def base_logits(self) -> Tensor:
        """logits_BSV of the base in the same batch."""
        found = self._ask(Route.base(len(self.edits), self.store.base.device)).logits_BSV
        assert found is not None
        return found

    def _ask(self, route: Route | None) -> Decoded:
        store, base = self.store, self.store.base
        snapshot = store.ledger.snapshot()
        edited = store.edited_model(snapshot)
        encoded = [base.template.encode_prompt(edit.prompt) for edit in self.edits]
        filled = edited.prefill(pad_prompts(encoded, base.pad_id, base.device))
        told = answer(edited, filled, route or edited.route(filled), 8, keep_logits=True)
        if route is None:
            assert self.said.setdefault(snapshot.version, told.tokens) == told.tokens
        return told


@pytest.fixture
def life(tmp_path: Path) -> Life:
    """Version 1: real edits."""
    config = load_config(fixed={"waves": {"on_conflict": "supersede"}})
    neutral = read_prompts(sample_path("nq_neutral.jsonl"))
    store = create_store(Storage(str(tmp_path / "store")), config, neutral)
    [batch] = ingest(sample_path("zsre_edits.jsonl"), Validator(), limit=COUNT)
    found = Life(LocalParts(store, config, [], NullTracker()), list(batch.edits))
    assert found.commit(found.edits) == 1
    return found


def revoke_one_by_one(life: Life) -> None:
    """Each revoked prompt has the base's logits again, and all others keep their answers."""
    base_BSV, before = life.base_logits(), life.ask()
    for row in range(COUNT * 2 // 5):
        life.store.ledger.settle(Revoke([life.edits[row].id], About("a test")))
        after = life.ask()
        assert after.logits_BSV is not None
        assert after.route.expert_B[row] == -1
        steps = min(after.logits_BSV.shape[1], base_BSV.shape[1])
        assert torch.equal(after.logits_BSV[row, :steps], base_BSV[row, :steps])
        others = [i for i in range(COUNT) if i != row]
        assert [after.tokens[i] for i in others] == [before.tokens[i] for i in others]
        before = after


def supersede_again_and_again(life: Life) -> None:
    """The newest answer is given each time, and one edit of the fact is active."""
    last, decode = COUNT - 1, life.store.base.template.decode
    for number in range(COUNT // 5):
        town = TOWNS[number % len(TOWNS)]
        life.commit([replace(life.edits[last], id=f"newer-{number}", target=town)])
        assert decode(life.ask().tokens[last]) == town
        ids = life.store.ledger.snapshot().ids
        assert [name for name in ids if name.startswith("newer")] == [f"newer-{number}"]
        assert life.edits[last].id not in ids


def test_what_was_said_can_be_taken_back_and_said_again(life: Life) -> None:
    revoke_one_by_one(life)
    supersede_again_and_again(life)
    ledger, storage = life.store.ledger, life.store.storage
    versions = sorted(life.said)
    assert versions == list(range(1, ledger.version() + 1))
    for version in versions:
        ledger.settle(Rollback(version, About("a test")))
        assert life.ask().tokens == life.said[version]
    assert not any(finding.is_damage for finding in verify_store(storage))
    later = datetime.now(UTC) + timedelta(days=365)
    plan = plan_collection(storage, ledger, Keep.for_days(later, 0))
    collect(storage, ledger, plan, About("a test"))
    active = {entry.bundle for entry in ledger.snapshot().entries}
    assert set(stored_bundles(storage)) == active | set(ledger.manifest.artifacts.values())
    assert life.ask().tokens == life.said[versions[-1]]
    assert list(verify_store(storage)) == []
