"""A served version routes as the platform's own model of that version does."""

import pytest
import torch

from scen.errors import IntegrityError, NotFoundError
from scen.ledger.actions import Recalibrate, Rollback
from scen.ledger.tensors import save_bundle
from scen.model.batch import pad_prompts
from scen.snapshot.open import OpenStore
from scen_serve.engine.caches import HostExpertCache
from scen_serve.engine.snapshots import SnapshotReader
from unit.serve.conftest import commit_wave, serve_edits, unrelated


@pytest.mark.parametrize("version", [0, 1, 2])
def test_routes_are_those_of_the_edited_model(
    store: OpenStore, reader: SnapshotReader, version: int
) -> None:
    snapshot = store.ledger.snapshot(version)
    served = reader.read(version)
    assert (served.version, list(served.edit_ids)) == (version, snapshot.ids)
    prompts = [edit.prompt for edit in serve_edits(32)] + unrelated(8)
    encoded = [store.base.template.encode_prompt(prompt) for prompt in prompts]
    edited = store.edited_model(snapshot)
    filled = edited.prefill(pad_prompts(encoded, store.base.pad_id))
    ours, theirs = served.neurons.route(filled), edited.route(filled)
    assert torch.equal(ours.expert_B, theirs.expert_B)
    assert torch.equal(ours.score_B, theirs.score_B)
    assert (ours.expert_B >= 0).sum() == len(snapshot.entries)


def test_each_version_routes_with_its_own_router(store: OpenStore, reader: SnapshotReader) -> None:
    prompts = [edit.prompt for edit in serve_edits(32)]
    encoded = [store.base.template.encode_prompt(prompt) for prompt in prompts]
    first = store.edited_model(store.ledger.snapshot())
    filled = first.prefill(pad_prompts(encoded, store.base.pad_id))
    before = reader.read()
    assert store.loader.router is not None
    strict = store.loader.router.cut_at(1.5)  # no cosine is above it
    digest = save_bundle(store.storage, strict.tensors())
    assert store.ledger.settle(Recalibrate(digest, "{}")).version == 3
    after = reader.read()
    assert (store.threshold, store.threshold_at(store.ledger.snapshot(2))) == (1.5, 0.95)
    assert after.edit_ids == before.edit_ids
    assert (after.neurons.route(filled).expert_B < 0).all()
    assert (store.edited_model(store.ledger.snapshot()).route(filled).expert_B < 0).all()
    assert (before.neurons.route(filled).expert_B >= 0).all()  # requests still run on it
    commit_wave(store, serve_edits(2, 32), 2)
    assert (reader.read().neurons.route(filled).expert_B < 0).all()
    assert (reader.read(2).neurons.route(filled).expert_B >= 0).all()
    store.ledger.settle(Rollback(2))
    back = reader.read()
    assert back.version == 5
    assert torch.equal(back.neurons.route(filled).expert_B, before.neurons.route(filled).expert_B)


def test_the_keys_of_a_bundle_are_read_once(
    store: OpenStore, reader: SnapshotReader, host: HostExpertCache
) -> None:
    before = reader.read()
    for place in set(before.places):
        (store.storage.local_path / f"bundles/{place.bundle}.safetensors").unlink(missing_ok=True)
    commit_wave(store, serve_edits(4, 32), 2)
    after = reader.read()
    assert (reader.newest(), after.version, len(after.places)) == (3, 3, 36)
    assert after.places[:32] == before.places
    assert host.find(after.places[0]) is not None


def test_a_version_that_cannot_be_served(
    store: OpenStore, reader: SnapshotReader, host: HostExpertCache
) -> None:
    with pytest.raises(NotFoundError):
        reader.read(7)
    bundle = store.ledger.snapshot().entries[0].bundle
    path = store.storage.local_path / f"bundles/{bundle}.safetensors"
    path.write_bytes(b"x" + path.read_bytes()[1:])
    with pytest.raises(IntegrityError, match="restore"):
        SnapshotReader(store, host).read()
