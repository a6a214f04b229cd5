"""A pointer opens the model that it was made of, wherever store and base are now, or none."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from scen.errors import BaseError, ConfigError, IntegrityError, NotFoundError
from scen.fs import Storage
from scen.ledger.actions import About, Revoke
from scen.ledger.bundles import bundle_path
from scen.ledger.manifest import HeldWave, SnapshotPointer, point_at
from scen.snapshot.ask import Answer, VersionModel
from scen.snapshot.open import OpenStore, open_pointer
from unit.serve.conftest import NEW, alone, commit_wave, prepare_wave, serve_edits, store, unrelated

__all__ = ["store"]  # a fixture: 20 edits at version 1, 12 more at version 2
PROMPTS = [edit.prompt for edit in serve_edits(32)][::7] + unrelated(2)


def pointer_of(store: OpenStore, version: int, held: HeldWave | None = None) -> SnapshotPointer:
    ledger = store.ledger
    return point_at(store.storage.uri, ledger.manifest, ledger.snapshot(version), held)


def asked(model: VersionModel, prompts: list[str]) -> list[Answer]:
    return [model.ask(prompt, NEW) for prompt in prompts]


def test_it_answers_as_its_version_does(store: OpenStore) -> None:
    replies = asked(open_pointer(pointer_of(store, 2), device="cpu"), PROMPTS)
    assert [reply.answer for reply in replies] == [alone(store, p).strip() for p in PROMPTS]
    assert [reply.edit_id for reply in replies[:5]] == [f"edit-{i}" for i in range(0, 32, 7)]
    assert [reply.edit_id for reply in replies[5:]] == [None, None]
    assert all(reply.score is not None and reply.version == 2 for reply in replies)


def test_later_commits_do_not_change_it(store: OpenStore) -> None:
    pointer = pointer_of(store, 1)
    before = asked(open_pointer(pointer, device="cpu"), PROMPTS)
    store.ledger.settle(Revoke(["edit-0"], About("wrong")))
    assert asked(open_pointer(pointer, device="cpu"), PROMPTS) == before
    revoked = open_pointer(pointer_of(store, 3), device="cpu").ask(PROMPTS[0], NEW)
    assert (before[0].edit_id, revoked.edit_id) == ("edit-0", None)


def test_a_held_wave_answers_as_if_it_were_committed(store: OpenStore) -> None:
    edits = serve_edits(4, 40)
    prepared = prepare_wave(store, edits, 3)
    held = HeldWave("wave-3", prepared.bundle, tuple(edit.id for edit in edits), ("edit-0",))
    model = open_pointer(pointer_of(store, 2, held), device="cpu")
    store.ledger.settle(Revoke(["edit-0"], About("replaced")))
    assert commit_wave(store, edits, 3) == 4
    prompts = [PROMPTS[0], *(edit.prompt for edit in edits)]
    then = asked(open_pointer(pointer_of(store, 4), device="cpu"), prompts)
    assert [replace(reply, version=2) for reply in then] == asked(model, prompts)
    assert [reply.edit_id for reply in then] == [None, "edit-40", "edit-41", "edit-42", "edit-43"]


def test_without_edits_the_base_speaks(store: OpenStore) -> None:
    reply = open_pointer(pointer_of(store, 0), device="cpu").ask(PROMPTS[0], NEW)
    assert (reply.edit_id, reply.score, reply.version) == (None, None, 0)
    with pytest.raises(ConfigError, match="has no tokens"):
        open_pointer(pointer_of(store, 0), device="cpu").ask(" ", NEW)


def test_a_moved_store_is_named(store: OpenStore, tmp_path: Path) -> None:
    pointer = pointer_of(store, 2)
    before = asked(open_pointer(pointer, device="cpu"), PROMPTS)
    moved = str(tmp_path / "moved")
    shutil.move(store.storage.local_path, moved)
    with pytest.raises(NotFoundError, match="model_config="):
        open_pointer(pointer, device="cpu")
    assert asked(open_pointer(pointer, store=moved, device="cpu"), PROMPTS) == before


def test_a_moved_base_is_named(store: OpenStore, tiny_folder: Path, tmp_path: Path) -> None:
    pointer = pointer_of(store, 2)
    gone = replace(pointer, base={**pointer.base, "name": str(tmp_path / "gone")})
    with pytest.raises(BaseError, match="gone"):
        open_pointer(gone, device="cpu")
    found = open_pointer(gone, base=str(tiny_folder), device="cpu")
    assert found.ask(PROMPTS[0], NEW) == open_pointer(pointer, device="cpu").ask(PROMPTS[0], NEW)


def test_another_store_or_damaged_experts_are_refused(store: OpenStore, tmp_path: Path) -> None:
    pointer = pointer_of(store, 2)
    copy = Storage(str(tmp_path / "copy"))
    shutil.copytree(store.storage.local_path, copy.local_path, dirs_exist_ok=True)
    store.ledger.settle(Revoke(["edit-0"], About("wrong")))
    other = replace(pointer, version=3)
    with pytest.raises(IntegrityError, match="version 3 has other edits"):
        open_pointer(other, device="cpu")
    with pytest.raises(NotFoundError, match="3"):
        open_pointer(other, store=copy.uri, device="cpu")
    bundle = store.ledger.snapshot(2).entries[0].bundle
    file = copy.local_path / bundle_path(bundle)
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    with pytest.raises(IntegrityError, match="is damaged"):
        open_pointer(pointer, store=copy.uri, device="cpu")
