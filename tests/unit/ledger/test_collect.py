"""Garbage collection: what is deleted, what is kept and for whom."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import torch

from scen.errors import ConfigError, IntegrityError, NotFoundError
from scen.ledger.actions import About, Revoke, Rollback
from scen.ledger.bundles import LOG_FOLDER, bundle_path, spare_checkpoints, stray_files
from scen.ledger.collect import Keep, collect, plan_collection, referenced_at
from scen.ledger.ledger import open_ledger
from scen.ledger.markers import Lease, Policy, pin, unpin, write_policy
from scen.ledger.table import open_table
from scen.ledger.tensors import save_bundle
from scen.ledger.verify import verify_store
from unit.ledger.conftest import Shop, add_wave

NOW = datetime.now(UTC) + timedelta(days=365)  # all that a test does is a year ago
ABOUT = About("tidy", "ann")


def files(shop: Shop, keep: Keep) -> list[str]:
    """What would be deleted."""
    return [file.path for file in plan_collection(shop.storage, shop.ledger, keep).files]


@pytest.fixture
def revoked(shop: Shop) -> Shop:
    """Version 4: a is revoked as a whole, b by half."""
    shop.ledger.settle(Revoke(["a-0", "a-1", "b-0"]))
    return shop


def test_only_what_no_kept_version_needs_goes(revoked: Shop) -> None:
    shop = revoked
    mine = [bundle_path(shop.bundles["a"])]
    assert files(shop, Keep.for_days(NOW, 30)) == mine
    assert files(shop, Keep.for_days(NOW, 30, [3])) == []
    assert files(shop, Keep.for_days(NOW, 30, [0])) == mine
    assert files(shop, Keep.for_days(NOW, 366)) == []
    plan = plan_collection(shop.storage, shop.ledger, Keep.for_days(NOW, 30))
    assert (plan.kept, plan.edit_ids) == ((4,), ("a-0", "a-1"))
    assert plan.num_bytes == shop.bundle("a").stat().st_size
    with pytest.raises(ConfigError, match=r"--keep-version: \[9\] are not among 0 to 4"):
        files(shop, Keep.for_days(NOW, 30, [9]))


def test_the_version_that_was_the_newest_when_the_days_begin_stays(revoked: Shop) -> None:
    log = revoked.ledger.log()
    since = log[3].committed_at
    assert files(revoked, Keep(since, since)) == []
    assert len(files(revoked, Keep(since + timedelta(microseconds=1), since))) == 1


def test_collected_edits_are_logged_as_dropped(revoked: Shop) -> None:
    shop = revoked
    plan = plan_collection(shop.storage, shop.ledger, Keep.for_days(NOW, 30))
    assert collect(shop.storage, shop.ledger, plan, ABOUT) == 5
    assert not shop.bundle("a").exists()
    assert shop.bundle("b").exists()
    last = shop.ledger.log()[-1]
    assert (last.action, last.who, last.counts) == ("gc", "ann", {"dropped": 2})
    assert list(verify_store(shop.storage)) == []
    with pytest.raises(ConfigError, match=r"the expert of 'a-0' was deleted by `scen gc`"):
        shop.ledger.settle(Rollback(3))
    assert shop.ledger.settle(Rollback(4)).already_committed
    again = plan_collection(shop.storage, shop.ledger, Keep.for_days(NOW, 30))
    assert (again.files, again.edit_ids) == ((), ())
    assert collect(shop.storage, shop.ledger, again, ABOUT) == 5


def test_a_run_that_was_killed_before_the_files_went_is_run_again(revoked: Shop) -> None:
    shop = revoked
    path = shop.bundle("a")
    data = path.read_bytes()
    plan = plan_collection(shop.storage, shop.ledger, Keep.for_days(NOW, 30))
    collect(shop.storage, shop.ledger, plan, ABOUT)
    path.write_bytes(data)
    assert [f.kind for f in verify_store(shop.storage)] == ["orphan"]
    again = plan_collection(shop.storage, shop.ledger, Keep.for_days(NOW, 30))
    assert again.edit_ids == ()
    collect(shop.storage, shop.ledger, again, ABOUT)
    assert not path.exists()


def test_what_comes_back_between_plan_and_deed_stays(revoked: Shop) -> None:
    shop = revoked
    plan = plan_collection(shop.storage, shop.ledger, Keep.for_days(NOW, 30))
    open_ledger(shop.storage).settle(Rollback(3))
    with pytest.raises(ConfigError, match="'a-0' is active, so it cannot be dropped"):
        collect(shop.storage, shop.ledger, plan, ABOUT)
    assert shop.bundle("a").exists()


def test_what_a_server_has_pinned_stays(revoked: Shop) -> None:
    shop, keep = revoked, Keep.for_days(NOW, 30)
    pin(shop.storage, "server-1", 3)
    pin(shop.storage, "server-2", 4)
    assert files(shop, keep) == []
    pin(shop.storage, "server-1", 4)
    assert len(files(shop, keep)) == 1
    pin(shop.storage, "server-1", 2)
    unpin(shop.storage, "server-1")
    assert len(files(shop, keep)) == 1


def test_orphans_go_after_a_day_unless_a_wave_is_on_its_way(shop: Shop) -> None:
    """A committed wave does not need its parts; one that was cut off does."""
    orphan, part, open_part = (
        save_bundle(shop.storage, {"key": torch.full((1, 8), float(i))}) for i in range(3)
    )
    shop.storage.put_json("waves/a/parts/0.json", {"bundle": part, "losses": []})
    shop.storage.put_json("waves/open/parts/0.json", {"bundle": open_part, "losses": []})
    shop.storage.put_json("waves/open/planned.json", {})
    assert sorted(files(shop, Keep.for_days(NOW, 30))) == sorted(map(bundle_path, (orphan, part)))
    assert files(shop, Keep.for_days(datetime.now(UTC), 30)) == []


def test_what_was_active_at_versions(revoked: Shop) -> None:
    ledger = revoked.ledger
    for versions in ({4}, {0, 4}, {1, 4}, {2, 3, 4}, {4, 1, 0}):
        meant = {name for v in versions for name in ledger.snapshot(v).ids}
        assert referenced_at(ledger, versions) == meant


KEEP = Keep.for_days(datetime.now(UTC) + timedelta(days=365), 30)


def collect_now(shop: Shop) -> set[str]:
    """Collect; the waves whose experts are still there."""
    collect(shop.storage, shop.ledger, plan_collection(shop.storage, shop.ledger, KEEP), About())
    return {name for name in shop.bundles if shop.bundle(name).exists()}


@pytest.fixture
def emptied(shop: Shop) -> Shop:
    """Versions 1 to 3 have brought a, b and c; version 4 revokes all."""
    shop.ledger.settle(Revoke(shop.ledger.snapshot().ids))
    return shop


def test_what_the_policy_holds_or_tries_stays_until_it_names_it_no_more(emptied: Shop) -> None:
    write_policy(emptied.storage, Policy(held=1, candidate=2, share=0.1))
    assert collect_now(emptied) == {"a", "b"}
    write_policy(emptied.storage, Policy(held=1))
    assert collect_now(emptied) == {"a"}
    write_policy(emptied.storage, Policy())
    assert collect_now(emptied) == set()


def test_what_a_running_server_answers_from_stays_until_it_goes_on(emptied: Shop) -> None:
    lease = Lease(emptied.storage)
    lease.hold(2)
    assert collect_now(emptied) == {"a", "b"}
    lease.hold(emptied.ledger.version())
    assert collect_now(emptied) == set()


def test_what_is_leased_between_the_plan_and_the_deletion_stays(emptied: Shop) -> None:
    """Also for the next run, to which it is an orphan; whoever comes later is told."""
    storage, ledger = emptied.storage, emptied.ledger
    plan = plan_collection(storage, ledger, KEEP)
    lease, snapshot = Lease(storage), ledger.snapshot(2)
    assert lease.take(2)
    ledger.require_experts(snapshot)
    collect(storage, ledger, plan, ABOUT)
    assert {name for name in emptied.bundles if emptied.bundle(name).exists()} == {"a", "b"}
    assert collect_now(emptied) == {"a", "b"}
    with pytest.raises(NotFoundError, match="deleted the experts of 4 of its edits, 'a-0' among"):
        ledger.require_experts(snapshot)
    lease.end()
    assert collect_now(emptied) == set()


def test_versions_that_never_were_keep_nothing(emptied: Shop) -> None:
    """As where a ledger was restored from an old backup."""
    write_policy(emptied.storage, Policy(held=99))
    assert collect_now(emptied) == set()


def test_nothing_goes_where_nobody_knows_what_is_served(emptied: Shop) -> None:
    write_policy(emptied.storage, Policy(held=1))
    emptied.file("serving/000000000.json").write_text("{")
    with pytest.raises(IntegrityError, match="serving/000000000"):
        collect_now(emptied)
    assert emptied.bundle("a").exists()


LATER = datetime.now(UTC) + timedelta(days=365)


def ids(shop: Shop) -> list[list[str]]:
    """What is active at each version, as a process reads it that has read nothing yet."""
    newest = shop.ledger.version()
    return [open_ledger(shop.storage).snapshot(version).ids for version in range(newest + 1)]


def gc(shop: Shop, keep: Keep) -> list[str]:
    """Collect; the files that were deleted."""
    plan = plan_collection(shop.storage, shop.ledger, keep)
    collect(shop.storage, shop.ledger, plan, About())
    return [file.path for file in plan.files]


def leave_behind(shop: Shop) -> list[str]:
    """What a killed writer leaves: its data, and its commit beside its place."""
    data = next(shop.file("ledger").glob("*.parquet")).read_bytes()
    names = [f"{LOG_FOLDER}/_commit_1234.json.tmp", "ledger/part-00000-cut-off.parquet"]
    for name in names:
        shop.storage.put_new(name, data)
    return names


def test_what_a_killed_writer_left_goes_after_a_day(shop: Shop) -> None:
    before, left = ids(shop), leave_behind(shop)
    found = list(verify_store(shop.storage))
    assert sorted(finding.where for finding in found) == left
    assert {finding.kind for finding in found} == {"orphan"}
    assert all("`scen gc` deletes it" in finding.fix for finding in found)
    assert gc(shop, Keep.for_days(datetime.now(UTC), 30)) == []  # its writer may be at work
    assert sorted(gc(shop, Keep.for_days(LATER, 30))) == left
    assert list(verify_store(shop.storage)) == []
    assert ids(shop) == before


def cut(path: Path) -> None:
    """Leave a file's first byte."""
    path.write_bytes(path.read_bytes()[:1])


@pytest.mark.parametrize("damage", [Path.unlink, cut])
def test_no_data_goes_while_a_log_file_is_missing_or_damaged(
    shop: Shop, damage: Callable[[Path], None]
) -> None:
    """It may be the one that names the data. With a checkpoint the ledger is read without it."""
    open_table(shop.storage).create_checkpoint()
    leave_behind(shop)
    damage(shop.file(f"{LOG_FOLDER}/{1:020d}.json"))
    with pytest.raises(IntegrityError):
        stray_files(shop.storage)
    assert len(list(shop.file("ledger").glob("*.parquet"))) == 4


def test_checkpoints_that_no_kept_version_needs_go(shop: Shop) -> None:
    open_table(shop.storage, 1).create_checkpoint()
    for seed, name in enumerate("defg", 3):
        add_wave(shop, name, seed)
        if name in "dfg":
            open_table(shop.storage).create_checkpoint()  # of versions 4, 6 and 7
    shop.ledger.settle(Revoke(["a-0"]))
    before = ids(shop)

    def spare(*kept: int) -> list[int]:
        found = spare_checkpoints(shop.storage, kept)
        return [int(file.path.split("/")[-1].split(".")[0]) for file in found]

    assert spare(8) == [1, 4, 6]
    assert spare(8, 5) == [1, 6]
    assert spare(0) == [1, 4, 6]
    assert spare(*range(9)) == []
    assert len(gc(shop, Keep.for_days(LATER, 30, [5]))) == 2
    assert ids(shop) == before
    assert list(verify_store(shop.storage)) == []


def test_the_checkpoint_that_readers_begin_with_stays(shop: Shop) -> None:
    """A writer that is killed after its checkpoint leaves word of the one before."""
    pointer, told = f"{LOG_FOLDER}/_last_checkpoint", b""
    for version in (1, 2, 3):
        open_table(shop.storage, version).create_checkpoint()
        told = told or shop.storage.read(pointer)
    shop.file(pointer).write_bytes(told)
    [spare] = spare_checkpoints(shop.storage, [3])
    assert spare.path.endswith("2.checkpoint.parquet")
    before = ids(shop)
    shop.storage.delete(spare.path)
    assert ids(shop) == before
    shop.storage.delete(pointer)
    assert len(spare_checkpoints(shop.storage, [3])) == 1
