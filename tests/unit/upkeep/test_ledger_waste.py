"""Files of a ledger that no version needs go, and every version is read as before."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from scen.errors import IntegrityError
from scen.registry.actions import About, Revoke
from scen.registry.ledger import open_ledger
from scen.registry.table import open_table
from scen.upkeep.collect import Keep, collect, plan_collection
from scen.upkeep.ledger_files import LOG_FOLDER
from scen.upkeep.ledger_waste import spare_checkpoints, stray_files
from scen.upkeep.verify import verify_store
from unit.upkeep.conftest import Shop, add_wave

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
