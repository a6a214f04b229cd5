"""Collection deletes what nobody needs, and nothing else, whoever comes between."""

from datetime import UTC, datetime, timedelta

import pytest
import torch

from scen.errors import ConfigError
from scen.registry.actions import About, Revoke, Rollback
from scen.registry.ledger import open_ledger
from scen.registry.pins import pin, unpin
from scen.store.bundles import bundle_path, save_bundle
from scen.upkeep.collect import Keep, active_at, collect, plan_collection
from scen.upkeep.verify import verify_store
from unit.upkeep.conftest import Shop

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


def test_what_is_collected_is_gone_and_said_so(revoked: Shop) -> None:
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
        assert active_at(ledger, versions) == meant
