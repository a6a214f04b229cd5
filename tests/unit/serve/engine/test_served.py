"""A served version routes as the platform's own model of that version does."""

import pytest
import torch

from scen.errors import IntegrityError, NotFoundError
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
